/**
 * Changes one guard or one constant of a machine at a time, in a copy of the sources, and replays old traces there: each must diverge, at that machine's
 * actor and at the message that makes the difference. Exits with 1 if any does not.
 *
 * @example
 * node scripts/mutate-machines.ts
 * node scripts/mutate-machines.ts scheduler     # those whose file or text holds the word
 * @module
 */
import { markdownTable } from 'markdown-table';
import { complaintOf, MUTATIONS, MutatedSources } from '../test/trace/machine-mutations.ts';

const [word = ''] = process.argv.slice(2);
const mutations = MUTATIONS.filter(({ file, from }) => `${file} ${from}`.includes(word));
const oneLine = (text: string): string => text.replaceAll(/\s+/g, ' ');

using sources = new MutatedSources();
for (const run of new Set(mutations.map((mutation) => mutation.run))) await sources.record(run);

const rows: string[][] = [];
let missed = 0;
for (const mutation of mutations) {
  const replayed = await sources.replay(mutation);
  const complaint = complaintOf(mutation, replayed);
  if (complaint !== null) missed++;
  const { divergence } = replayed.verdict;
  const named = divergence === null ? '' : `${divergence.actor}, ${divergence.message?.type ?? 'birth'}, step ${divergence.record}: ${divergence.difference}`;
  console.log(`${complaint === null ? 'caught' : 'MISSED'}  ${mutation.file}: ${oneLine(mutation.to)}${complaint === null ? '' : `: ${complaint}`}`);
  rows.push([mutation.file, `\`${oneLine(mutation.from)}\``, `\`${oneLine(mutation.to)}\``, mutation.run, complaint ?? named]);
}
console.log(`\n${markdownTable([['FILE', 'WAS', 'IS', 'RUN', 'REPLAY NAMES'], ...rows])}\n\n${mutations.length - missed} of ${mutations.length} caught`);
process.exitCode = missed === 0 ? 0 : 1;
