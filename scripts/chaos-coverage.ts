/**
 * Writes what a campaign has covered as a table of kinds, phases and recoveries, with the reason for each cell that is not tried.
 *
 * @example
 * minipod chaos campaign --seeds 1..10000 --jobs 2 --json > campaign.json; node scripts/chaos-coverage.ts campaign.json > docs/chaos-coverage.md
 * @module
 */
import { readFileSync } from 'node:fs';
import { markdownTable } from 'markdown-table';
import { type CampaignReport, cellsOf, FAULT_KINDS, KIND_TERMS, PHASES, SURVIVED } from '../src/chaos/index.ts';

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: node scripts/chaos-coverage.ts CAMPAIGN.json');
const { runs, calls, events, verdicts, coverage } = JSON.parse(readFileSync(file, 'utf8')) as CampaignReport;

const EFFECTIVE_MIN = 5;
const cells = cellsOf(SURVIVED).map(({ kind, phase }) => {
  const row = coverage.find((known) => known.kind === kind && known.phase === phase);
  return { kind, phase, planned: row?.planned ?? 0, struck: row?.struck ?? 0, effective: row?.effective ?? 0 };
});
const few = cells.filter(({ effective }) => effective < EFFECTIVE_MIN);
const tried = cells.map(({ kind, phase, planned, struck, effective }) => [
  `\`${kind}\``,
  phase,
  KIND_TERMS[kind].recovery,
  `${planned}`,
  `${struck}`,
  `${effective}`,
]);
const untried = FAULT_KINDS.flatMap((kind) => {
  const { excluded, not_at = '', phases } = KIND_TERMS[kind];
  if (excluded !== null) return [[`\`${kind}\``, 'all', excluded]];
  const missing = PHASES.filter((phase) => !phases.includes(phase));
  return missing.length === 0 ? [] : [[`\`${kind}\``, missing.join(', '), not_at]];
});

console.log(`# What chaos campaigns cover

${runs} seeds, ${calls} calls, ${events} events: ${Object.entries(verdicts)
  .map(([verdict, count]) => `${count} ${verdict}`)
  .join(
    ', ',
  )}. A fault is *effective* where it changed something. Of ${cells.length} cells ${cells.length - few.length} were effective ${EFFECTIVE_MIN} times at least${few.length === 0 ? '.' : `; those below: ${few.map(({ kind, phase, effective }) => `\`${kind}\` at ${phase} (${effective})`).join(', ')}.`}

Written by [\`scripts/chaos-coverage.ts\`](../scripts/chaos-coverage.ts).

${markdownTable([['FAULT', 'PHASE', 'RECOVERY', 'PLANNED', 'STRUCK', 'EFFECTIVE'], ...tried])}

Not tried:

${markdownTable([['FAULT', 'PHASES', 'WHY'], ...untried])}`);
