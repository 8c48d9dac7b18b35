/**
 * The verdict on one mutant: asked are a few tests and a campaign, each in one process for all mutants, then more tests, tests with threads, and pods of every sort against one NPU if that is wanted: it is dear.
 * @module
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { Mutant } from './draw.ts';
import { type Reach, type Seeds, type Tests, testsOf } from './judges.ts';
import type { Killer, Result } from './report.ts';

/** Seconds of CPU that tests took without the mutant. */
const FEW_S = 3;
const MORE_S = 4;
const APART_S = 6;
const SEEDS_CPU_S = 3;
/** A longer one would be taken for one that goes round for ever. */
const SEED_CPU_S = 4;
/** A process for each file, or its imports alone. */
const START_S = 1;
/** Rooms whose tests start threads: those may fail by chance on a crowded machine, so what they find is looked for once more. */
const APART = /^test\/(?:system|chaos|trace|api)\//;
const NO_MUTANT = 0;
const SAME_BITS = ['--virtual 20', '--virtual 12 --experts', '--virtual 10 --shapes', '--virtual 10 --mtp'];

/** Seeds that pass the mutant's place, cheapest first: whatever is decided as modules load may change each of them, and is none's. */
export function seedsOf({ id }: Mutant, { seeds, killers }: Reach): readonly number[] {
  if (seeds.some(({ seed, places }) => seed < 0 && places.includes(id))) return [];
  const killer = killers?.get(id) ?? '';
  const rankOf = ({ seed }: { readonly seed: number }): number => (killer.startsWith(`seed ${seed}: `) ? 0 : 1);
  return seeds
    .filter(({ places, cpu_s }) => places.includes(id) && cpu_s < SEED_CPU_S)
    .sort((a, b) => rankOf(a) - rankOf(b) || a.cpu_s - b.cpu_s)
    .map(({ seed }) => seed);
}

/** Asks a few tests alone, near ones first, of many mutants at once. */
export async function judgeByTests(mutants: readonly Mutant[], { copy, reach, tests }: Judges, onResult: (result: Result) => void): Promise<void> {
  const chosen = new Map(
    mutants.map((mutant) => {
      const together = testsOf(mutant, copy, reach).filter(({ file, cpu_s }) => !APART.test(file) && cpu_s < FEW_S / 3);
      return [mutant.id, upTo(together, FEW_S)[0]] as const;
    }),
  );
  await tests.killEach(chosen, (id, what) => onResult({ id, by: 'tests', what, tried: { tests: chosen.get(id)?.length ?? 0, seeds: 0 } }));
}

/** Asks the campaign alone; those that it does not kill are told of, too. */
export async function judgeBySeeds(mutants: readonly Mutant[], { reach, seeds }: Judges, onResult: (result: Result) => void): Promise<void> {
  const orders = mutants.map((mutant) => ({ mutant: mutant.id, seeds: seedsOf(mutant, reach) })).filter((order) => order.seeds.length > 0);
  await seeds.killEach(orders, SEEDS_CPU_S, (id, killer) => {
    const tried = { tests: 0, seeds: orders.find(({ mutant }) => mutant === id)?.seeds.length ?? 0 };
    onResult({ id, by: killer === null ? null : 'campaign', what: killer ?? '', tried });
  });
}

export type Judges = { readonly copy: string; readonly reach: Reach; readonly tests: Tests; readonly seeds: Seeds; readonly withSameBits: boolean };
type Test = ReturnType<typeof testsOf>[number];

/** As many as take so long together, and those that are left. */
function upTo(tests: readonly Test[], cpu_s: number): readonly [Test[], Test[]] {
  const [taken, left]: [Test[], Test[]] = [[], []];
  const files = new Set<string>();
  let used_s = 0;
  for (const test of tests) {
    const cost_s = test.cpu_s + (files.has(test.file) ? 0 : APART.test(test.file) ? START_S : START_S / 4);
    if (used_s + cost_s > cpu_s) left.push(test);
    else {
      used_s += cost_s;
      files.add(test.file);
      taken.push(test);
    }
  }
  return [taken, left];
}

/** Of a mutant that the campaign does not kill. */
export async function judge(mutant: Mutant, { copy, reach, tests, withSameBits }: Judges): Promise<Result> {
  const tried = { tests: 0, seeds: seedsOf(mutant, reach).length };
  const end = (by: Killer | null, what: string): Result => ({ id: mutant.id, by, what, tried });
  const ask = async (chosen: readonly Test[]): Promise<string | null> => {
    tried.tests += chosen.length;
    const killed = await tests.kill(mutant.id, chosen);
    if (killed === null) return null;
    const { what, test } = killed;
    const again = test === undefined ? chosen : [test];
    // It may have changed since it was looked at.
    if ((await tests.kill(NO_MUTANT, again)) !== null) return test === undefined ? null : ask(chosen.filter((one) => one !== test));
    const isCertain = test === undefined ? !/timed out|Timeout/.test(what) : !APART.test(test.file) && !what.includes('timed out');
    return isCertain || (await tests.kill(mutant.id, again)) !== null ? what : null;
  };
  const reaching = testsOf(mutant, copy, reach);
  const [few, others] = upTo(
    reaching.filter(({ file }) => !APART.test(file)),
    FEW_S,
  );
  const first = await ask(few);
  if (first !== null) return end('tests', first);

  const byMore = await ask(upTo(others, MORE_S)[0]);
  if (byMore !== null) return end('tests', byMore);
  const byApart = await ask(
    upTo(
      reaching.filter(({ file }) => APART.test(file)),
      APART_S,
    )[0],
  );
  if (byApart !== null) return end('tests', byApart);
  if (withSameBits && tried.seeds > 0)
    for (const how of SAME_BITS) {
      const differs = await sameBits(copy, mutant.id, how);
      if (differs !== null) return end('same bits', `${how}: ${differs}`);
    }
  return end(null, '');
}

function sameBits(copy: string, mutant: number, how: string): Promise<string | null> {
  const load = `--import=file://${join(copy, 'scripts/mutants/switch-thread.mjs')}`;
  const env = { ...process.env, NODE_OPTIONS: load, MUTANT: String(mutant), REACHED: '' };
  return new Promise((resolve) => {
    execFile(process.execPath, [join(copy, 'scripts/same-bits-campaign.ts'), ...how.split(' '), '--seed', '1'], { env, cwd: copy }, (error, stdout) =>
      resolve(error === null ? null : (stdout.split('\n')[0] ?? '').slice(0, 160)),
    );
  });
}
