/**
 * Changes one place of the sources at a time, by chance and from a seed, and sees who notices: the tests that pass the place, campaigns, and the pods of
 * scripts/same-bits-campaign.ts. Whatever nobody notices is equivalent, or a hole. All that is found out is kept in a folder, so that it can be gone on with.
 *
 * @example
 * nice -n 19 node scripts/mutants.ts --work /tmp/mutants --seed 1 --count 220
 * node scripts/mutants.ts --work /tmp/mutants --again --same-bits --rooms system,golden,chaos     # those that survived, against more tests, as they are now
 * nice -n 19 node scripts/mutants.ts --work /tmp/mutants-now --from /tmp/mutants        # the same mutants in the sources as they are now: who killed one is asked first
 * node scripts/mutants.ts --work /tmp/mutants --write        # docs/mutants.md and bench/results/mutants.json
 * @module
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Draw, drawMutants, type Mutant, movedMutants, ROOMS } from './mutants/draw.ts';
import { type Reach, Seeds, Tests } from './mutants/judges.ts';
import { judgedOf, keyOf, type Result, writeReport } from './mutants/report.ts';
import { makeCopy } from './mutants/switched-copy.ts';
import { judge, judgeBySeeds, judgeByTests } from './mutants/verdict.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
/** Rooms of test/ that are asked: those that start no process of their own, at first; the others are dear. */
const TEST_ROOMS = 'actors,fabric,flowserve,platform,runtime,simulate,xccl';

const { values } = parseArgs({
  options: {
    work: { type: 'string' },
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '220' },
    seeds: { type: 'string', default: '150' },
    rooms: { type: 'string', default: TEST_ROOMS },
    only: { type: 'string', default: '' },
    from: { type: 'string' },
    part: { type: 'string', default: '1/1' },
    'same-bits': { type: 'boolean', default: false },
    again: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
  },
});
const { work } = values;
if (work === undefined) throw new Error('--work FOLDER: where what is found out is kept');
mkdirSync(work, { recursive: true });
const copy = join(work, 'copy');

const read = <Value>(name: string): Value => JSON.parse(readFileSync(join(work, name), 'utf8')) as Value;
const write = (name: string, value: unknown): void => writeFileSync(join(work, name), JSON.stringify(value));
const isThere = (name: string): boolean => existsSync(join(work, name));
const resultsFile = join(work, 'results.jsonl');
/** The last word on each. */
function results(file = resultsFile): Map<number, Result> {
  const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
  return new Map(lines.map((line) => JSON.parse(line) as Result).map((result) => [result.id, result]));
}

const git = (...command: readonly string[]): string => execFileSync('git', command, { cwd: ROOT, encoding: 'utf8' });

async function prepare(): Promise<void> {
  const commit = git('rev-parse', '--short', 'HEAD').trim();
  if (!isThere('mutants.json') && values.from !== undefined) {
    const { seed, commit: was, mutants } = JSON.parse(readFileSync(join(values.from, 'mutants.json'), 'utf8')) as Draw;
    const moved = movedMutants(ROOT, mutants, (file) => git('show', `${was}:${file}`));
    write('mutants.json', { seed, commit, mutants: moved, from: { commit: was, count: mutants.length } } satisfies Draw);
  }
  if (!isThere('mutants.json')) {
    const mutants = drawMutants(ROOT, ROOMS, Number(values.count), Number(values.seed), (drawn) => console.log(`${drawn} of a room drawn`));
    write('mutants.json', { seed: Number(values.seed), commit, mutants } satisfies Draw);
  }
  if (!existsSync(copy)) await makeCopy(ROOT, copy, read<Draw>('mutants.json').mutants);
  if (!isThere('seeds.json')) write('seeds.json', await new Seeds(copy).reach(Array.from({ length: Number(values.seeds) }, (_, index) => index + 1)));
  await lookAtTests();
}

/** What is passed by tests that are new, or have changed since. The sources stay those that the mutants are of. */
async function lookAtTests(): Promise<void> {
  const rooms = values.rooms.split(',').map((room) => join('test', room));
  const files = rooms.flatMap((room) =>
    room.endsWith('.test.ts')
      ? [room]
      : readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' })
          .filter((file) => file.endsWith('.test.ts'))
          .map((file) => join(room, file)),
  );
  const known = isThere('tests.json') ? read<Reach['files']>('tests.json') : [];
  const isKnown = new Set(known.map(({ file }) => file));
  const isSame = (file: string): boolean => existsSync(join(copy, file)) && readFileSync(join(copy, file), 'utf8') === readFileSync(join(ROOT, file), 'utf8');
  const due = files.filter((file) => !isKnown.has(file) || !isSame(file));
  cpSync(join(ROOT, 'test'), join(copy, 'test'), { recursive: true });
  if (due.length > 0) write('tests.json', [...known.filter(({ file }) => !due.includes(file)), ...(await new Tests(copy).reach(due))]);
}

if (values.write) writeReport(ROOT, read<Draw>('mutants.json'), results());
else {
  await prepare();
  const reach: Reach = { files: read('tests.json'), seeds: read('seeds.json') };
  const known = results();
  const judged = judgedOf(ROOT);
  const isLeft = (mutant: Mutant): boolean => known.get(mutant.id)?.by === null && judged[keyOf(mutant)]?.verdict !== 'equivalent';
  const isDue = (mutant: Mutant): boolean => {
    const { id, file, from, line } = mutant;
    return (values.again ? isLeft(mutant) : !known.has(id)) && `${id} ${file}:${line} ${from}`.includes(values.only);
  };
  const [part = 1, parts = 1] = values.part.split('/').map(Number);
  const due = read<Draw>('mutants.json').mutants.filter((mutant) => isDue(mutant) && mutant.id % parts === part % parts);
  await using tests = new Tests(copy);
  const killers = new Map([...results(join(values.from ?? work, 'results.jsonl'))].map(([id, { what }]) => [id, what]));
  const judges = { copy, reach: { ...reach, killers }, tests, seeds: new Seeds(copy), withSameBits: values['same-bits'] };
  const tell = (mutant: Mutant, result: Result): void => {
    appendFileSync(resultsFile, `${JSON.stringify(result)}\n`);
    const { id, file, line, from, text, operator } = mutant;
    const change = `${operator}: ${from.slice(0, 90)} → ${text.slice(0, 90)}`;
    const { by, what, tried } = result;
    console.log(
      `${by === null ? 'SURVIVED' : `killed by ${by}`} #${id} ${file}:${line} ${change} (${tried.tests} tests, ${tried.seeds} seeds) ${what.slice(0, 160)}`,
    );
  };
  const left = new Set(due);
  const byId = new Map(due.map((mutant) => [mutant.id, mutant]));
  const killed = (result: Result): void => {
    const mutant = byId.get(result.id) as Mutant;
    if (result.by !== null && left.delete(mutant)) tell(mutant, result);
  };
  await judgeByTests([...left], judges, killed);
  if (!values.again) await judgeBySeeds([...left], judges, killed);
  for (const mutant of left) tell(mutant, await judge(mutant, judges));
}
