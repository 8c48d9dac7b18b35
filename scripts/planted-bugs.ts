/**
 * Plants one bug at a time in a copy of the sources, has a campaign look for it, and shrinks what it finds: all of test/chaos/planted/bugs.txt in one go. What is found
 * has to hold in the sources as they are. Writes the page docs/chaos-planted.md to standard output, and how it goes to standard error. Exits with 1 if fewer are found and
 * shrunk to three faults than the goal.
 *
 * @example
 * node scripts/planted-bugs.ts --commit 1a2b3c4 --date 2026-11-22 > docs/chaos-planted.md
 * node scripts/planted-bugs.ts --numbers 6..6 --last 500      # the sixth alone
 * node scripts/planted-bugs.ts --keep found.jsonl             # what is in the file is not looked for again; several may fill it, each with numbers of its own
 * @module
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { markdownTable } from 'markdown-table';
import { type Found, faultText, PLANTED, PlantedSources } from '../test/chaos/planted/planted-bugs.ts';

const FAULTS_MAX = 3;
const FOUND_SHARE_MIN = 0.95;
const { values } = parseArgs({
  options: {
    numbers: { type: 'string', default: `1..${PLANTED.length}` },
    first: { type: 'string', default: '1' },
    last: { type: 'string', default: '2000' },
    keep: { type: 'string' },
    commit: { type: 'string', default: 'the sources at hand' },
    date: { type: 'string', default: '' },
    note: { type: 'string', default: '' },
  },
});
const [first, last] = [Number(values.first), Number(values.last)];
const seeds = last - first + 1;
const [from = 1, to = from] = values.numbers.split('..').map(Number);

type Known = Found & { readonly what: string };
const { keep } = values;
const known: Known[] =
  keep === undefined || !existsSync(keep)
    ? []
    : readFileSync(keep, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
const isFound = ({ seed, holdsOtherwise, faults }: Found): boolean => seed !== null && holdsOtherwise && faults.length <= FAULTS_MAX;

using sources = new PlantedSources();
const asked = PLANTED.slice(from - 1, to);
for (const bug of asked.filter(({ what }) => !known.some((one) => one.what === what))) {
  const found = { what: bug.what, ...(await sources.find(bug, first, last)) };
  known.push(found);
  if (keep !== undefined) appendFileSync(keep, `${JSON.stringify(found)}\n`);
  const { seed, faults, verdict, violation, holdsOtherwise } = found;
  const where = seed === null ? `not in ${seeds} seeds` : `seed ${seed}, ${faults.length} faults: ${verdict}: ${violation.slice(0, 200)}`;
  console.error(`${isFound(found) ? 'found ' : 'MISSED'}  ${bug.file}: ${bug.what}: ${where}${holdsOtherwise ? '' : ': so it is without the bug'}`);
}
const rows = asked.flatMap(({ file, what }) => {
  const one = known.find((found) => found.what === what);
  return one === undefined ? [] : [{ file, ...one }];
});
const found = rows.filter(isFound).length;
const cells = rows.map(({ file, what, seed, verdict, faults }) => [
  what,
  `\`${file}\``,
  seed === null ? 'none' : `${seed}`,
  seed === null ? '' : verdict,
  faults.map(faultText).join(', '),
]);
console.log(`# Bugs that campaigns find

Of ${rows.length} bugs that were planted in a copy of the sources, one at a time ([\`bugs.txt\`](../test/chaos/planted/bugs.txt)), a campaign of up to ${seeds} seeds found ${found}, and shrunk each to ${FAULTS_MAX} faults at most. The seed is the first of ${first}..${last} that finds it; its plan, and what is left of it, hold in the sources as they are.${values.note === '' ? '' : ` ${values.note}`}

Written by [\`scripts/planted-bugs.ts\`](../scripts/planted-bugs.ts), at ${values.commit}${values.date === '' ? '' : `, ${values.date}`}.

${markdownTable([['PLANTED', 'IN', 'SEED', 'FOUND AS', 'SHRUNK TO'], ...cells])}`);
process.exitCode = found >= FOUND_SHARE_MIN * rows.length ? 0 : 1;
