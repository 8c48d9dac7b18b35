/**
 * Plants one bug at a time in a copy of the sources, has a campaign look for it, and shrinks what it finds: all of test/chaos/planted/bugs.txt in one go. What is found
 * has to hold in the sources as they are. Writes the table of docs/chaos-planted.md to standard output, and what it is about to standard error. Exits with 1 if fewer are
 * found and shrunk to three faults than the goal.
 *
 * @example
 * node scripts/planted-bugs.ts --commit 1a2b3c4 --date 2026-11-22 > docs/chaos-planted.md
 * node scripts/planted-bugs.ts --only lease --last 500     # those whose file or text holds the word
 * @module
 */
import { parseArgs } from 'node:util';
import { markdownTable } from 'markdown-table';
import { faultText, PLANTED, PlantedSources } from '../test/chaos/planted/planted-bugs.ts';

const FAULTS_MAX = 3;
/** Of twenty. */
const FOUND_SHARE_MIN = 0.95;
const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    first: { type: 'string', default: '1' },
    last: { type: 'string', default: '2000' },
    commit: { type: 'string', default: 'the sources at hand' },
    date: { type: 'string', default: '' },
  },
});
const [first, last] = [Number(values.first), Number(values.last)];
const count = last - first + 1;

using sources = new PlantedSources();
const rows: string[][] = [];
let found = 0;
for (const bug of PLANTED.filter(({ file, what }) => `${file} ${what}`.includes(values.only))) {
  const { seed, verdict, violation, faults, holdsOtherwise } = await sources.find(bug, first, last);
  const isFound = seed !== null && holdsOtherwise && faults.length <= FAULTS_MAX;
  if (isFound) found++;
  const where = seed === null ? `not in ${count} seeds` : `seed ${seed}`;
  const why = holdsOtherwise ? '' : ' (and without the bug as well)';
  console.error(`${isFound ? 'found ' : 'MISSED'}  ${bug.file}: ${bug.what}: ${where}, ${faults.length} faults: ${verdict}${why}: ${violation.slice(0, 200)}`);
  rows.push([bug.what, `\`${bug.file}\``, seed === null ? 'none' : `${seed}${why}`, verdict === 'held' ? '' : verdict, faults.map(faultText).join(', ')]);
}
console.log(`# Bugs that campaigns find

Of ${rows.length} bugs that were planted in a copy of the sources, one at a time ([\`bugs.txt\`](../test/chaos/planted/bugs.txt)), the campaign found ${found} within ${count} seeds each, and shrunk each to ${FAULTS_MAX} faults at most. The seed is the first of ${first}..${last} that finds it; its plan holds in the sources as they are.

Written by [\`scripts/planted-bugs.ts\`](../scripts/planted-bugs.ts), at ${values.commit}${values.date === '' ? '' : `, ${values.date}`}.

${markdownTable([['PLANTED', 'IN', 'SEED', 'FOUND AS', 'SHRUNK TO'], ...rows])}`);
process.exitCode = found >= FOUND_SHARE_MIN * rows.length ? 0 : 1;
