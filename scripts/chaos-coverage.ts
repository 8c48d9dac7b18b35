/**
 * Writes what a campaign has covered as a table of kinds, phases and recoveries, with the reason for each cell that is not tried. Of a campaign in parts: all of them.
 *
 * @example
 * minipod chaos campaign --seeds 1..10000 --json > campaign.json
 * node scripts/chaos-coverage.ts --commit 1a2b3c4 --date 2026-11-22 campaign.json > docs/chaos-coverage.md
 * @module
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { markdownTable } from 'markdown-table';
import { type CampaignReport, cellsOf, FAULT_KINDS, KIND_TERMS, PHASES, RECOVERIES, RECOVERY_TERMS } from '../src/chaos/index.ts';

const { values, positionals } = parseArgs({
  options: {
    commit: { type: 'string', default: '' },
    date: { type: 'string', default: '' },
    seeds: { type: 'string', default: '' },
    note: { type: 'string', default: '' },
  },
  allowPositionals: true,
});
if (positionals.length === 0 || values.commit === '')
  throw new Error('usage: node scripts/chaos-coverage.ts --commit HASH --date DAY [--seeds RANGE] [--note TEXT] CAMPAIGN.json …');
type Part = CampaignReport & { readonly cpu_seconds: number };
const parts = positionals.map((file) => JSON.parse(readFileSync(file, 'utf8')) as Part);

const EFFECTIVE_MIN = 5;
const sumOf = (of: (part: Part) => number): number => parts.reduce((sum, part) => sum + of(part), 0);
const counted = (of: (part: Part) => Readonly<Record<string, number>>): Record<string, number> => {
  const sums: Record<string, number> = {};
  for (const part of parts) for (const [name, count] of Object.entries(of(part))) sums[name] = (sums[name] ?? 0) + count;
  return sums;
};
const listed = (counts: Record<string, number>): string =>
  Object.entries(counts)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ');

const cells = cellsOf(FAULT_KINDS).map(({ kind, phase, recovery }) => {
  const rows = parts.flatMap(({ coverage }) => coverage.filter((row) => row.kind === kind && row.phase === phase && row.recovery === recovery));
  const total = (name: 'planned' | 'struck' | 'effective'): number => rows.reduce((sum, row) => sum + row[name], 0);
  return { kind, phase, recovery, planned: total('planned'), struck: total('struck'), effective: total('effective') };
});
const few = cells.filter(({ effective }) => effective < EFFECTIVE_MIN);
const tried = cells.map(({ kind, phase, recovery, planned, struck, effective }) => [`\`${kind}\``, phase, recovery, `${planned}`, `${struck}`, `${effective}`]);
const untried = FAULT_KINDS.flatMap((kind) => {
  const { not_at = '', phases } = KIND_TERMS[kind];
  const missing = PHASES.filter((phase) => !phases.includes(phase));
  return missing.length === 0 ? [] : [[`\`${kind}\``, missing.join(', '), not_at]];
});
const unmixed = FAULT_KINDS.flatMap((kind) => {
  const { tried_with } = KIND_TERMS[kind];
  if (tried_with === undefined) return [];
  return [[`\`${kind}\``, RECOVERIES.filter((recovery) => !tried_with.recoveries.includes(recovery)).join(', '), tried_with.why]];
});
const unrecovered = RECOVERIES.flatMap((recovery) => {
  const { not_at } = RECOVERY_TERMS[recovery];
  return not_at === undefined ? [] : [[recovery, not_at.phases.join(', '), not_at.why]];
});
const failures = parts.flatMap((part) => part.failures.map(({ seed, verdict, violations }) => `- seed ${seed}, ${verdict}: ${violations[0]?.what ?? ''}`));
const runs = sumOf((part) => part.runs);
const topologies = Object.keys(counted((part) => part.topologies)).length;
const share = ((100 * sumOf(({ real_kernels }) => real_kernels)) / runs).toFixed(1);

console.log(`# What chaos campaigns cover

\`minipod chaos campaign --seeds ${values.seeds === '' ? `1..${runs}` : values.seeds} --json\` at ${values.commit}, ${values.date}: ${runs} seeds over ${topologies} topologies, ${sumOf(({ calls }) => calls)} calls, ${sumOf(({ events }) => events)} events, ${(sumOf(({ cpu_seconds }) => cpu_seconds) / 60).toFixed(0)} minutes of CPU time. ${listed(counted((part) => part.verdicts as Record<string, number>))}. ${share} % of the pods computed with the model itself, the others with the hash model. Faults a run: ${Object.entries(
  counted((part) => part.faults_a_run),
)
  .map(([faults, count]) => `${faults} in ${count}`)
  .join(', ')}.
${failures.length === 0 ? '' : `\n${failures.join('\n')}\n`}${values.note === '' ? '' : `\n${values.note}\n`}
A fault is *effective* where it changed something. Of ${cells.length} cells ${cells.length - few.length} were effective ${EFFECTIVE_MIN} times at least${few.length === 0 ? '.' : `; those below: ${few.map(({ kind, phase, recovery, effective }) => `\`${kind}\` at ${phase}, ${recovery} (${effective})`).join(', ')}.`}

How a pod goes on when a worker is lost: ${listed(counted((part) => part.recoveries as Record<string, number>))}.

${markdownTable([['RECOVERY', 'WHAT IT IS'], ...RECOVERIES.map((recovery) => [recovery, RECOVERY_TERMS[recovery].what])])}

And what each kind of fault is survived by; a kind that ends no worker is told apart by no recovery (\`any\`):

${markdownTable([['FAULT', 'SURVIVED'], ...FAULT_KINDS.map((kind) => [`\`${kind}\``, KIND_TERMS[kind].recovery])])}

Written by [\`scripts/chaos-coverage.ts\`](../scripts/chaos-coverage.ts).

${markdownTable([['FAULT', 'PHASE', 'RECOVERY', 'PLANNED', 'STRUCK', 'EFFECTIVE'], ...tried])}

Not tried:

${markdownTable([['FAULT', 'PHASES', 'WHY'], ...untried])}

${markdownTable([['FAULT', 'RECOVERIES', 'WHY'], ...unmixed])}

${markdownTable([['RECOVERY', 'PHASES', 'WHY'], ...unrecovered])}`);
