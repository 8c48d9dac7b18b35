/**
 * Plants one bug at a time in a copy of the sources, and has a campaign look for it. Exits with 1 if one is not found, or does not shrink to three faults.
 *
 * @example
 * node scripts/planted-bugs.ts
 * node scripts/planted-bugs.ts --only lease --last 500     # those whose file or text holds the word
 * @module
 */
import { parseArgs } from 'node:util';
import { markdownTable } from 'markdown-table';
import { PLANTED, PlantedSources } from '../test/chaos/planted/planted-bugs.ts';

const FAULTS_MAX = 3;
const { values } = parseArgs({
  options: { only: { type: 'string', default: '' }, first: { type: 'string', default: '1' }, last: { type: 'string', default: '2000' } },
});

using sources = new PlantedSources();
const rows: string[][] = [];
let missed = 0;
for (const bug of PLANTED.filter(({ file, what }) => `${file} ${what}`.includes(values.only))) {
  const { seed, verdict, violation, faults } = await sources.find(bug, Number(values.first), Number(values.last));
  const isFound = seed !== null && faults.length <= FAULTS_MAX;
  if (!isFound) missed++;
  console.log(`${isFound ? 'found ' : 'MISSED'}  ${bug.file}: ${bug.what}: seed ${seed}, ${faults.length} faults: ${verdict}: ${violation.slice(0, 200)}`);
  rows.push([bug.what, `${seed ?? 'none'}`, verdict, faults.map((fault) => `\`${fault}\``).join(' ')]);
}
console.log(`\n${markdownTable([['PLANTED', 'FIRST SEED', 'FOUND AS', 'SHRUNK TO'], ...rows])}\n\n${rows.length - missed} of ${rows.length} found`);
process.exitCode = missed === 0 ? 0 : 1;
