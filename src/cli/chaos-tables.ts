/** What the chaos commands print. @module */
import {
  type CallReport,
  type CampaignReport,
  type CanaryReport,
  type ChaosPlan,
  type CoverageRow,
  FAULT_KINDS,
  type FaultKind,
  type FaultReport,
  KIND_TERMS,
  type RunReport,
} from '../chaos/index.ts';
import { type Column, NONE, table } from './columns.ts';

const FAULT_COLUMNS: readonly Column<FaultReport>[] = [
  ['FAULT', ({ kind }) => kind],
  ['PHASE', ({ phase }) => phase],
  ['STRUCK', ({ struck }) => (struck ? 'yes' : 'no')],
  ['CHANGED', ({ effect }) => effect],
];
const CALL_COLUMNS: readonly Column<readonly [number, CallReport]>[] = [
  ['CALL', ([call]) => call],
  ['ENDED', ([, { code }]) => code],
  ['TOKENS', ([, { tokens }]) => tokens],
];
const COVERAGE_COLUMNS: readonly Column<CoverageRow>[] = [
  ['FAULT', ({ kind }) => kind],
  ['PHASE', ({ phase }) => phase],
  ['RECOVERY', ({ recovery }) => recovery],
  ['PLANNED', ({ planned }) => planned],
  ['STRUCK', ({ struck }) => struck],
  ['EFFECTIVE', ({ effective }) => effective],
];
const KIND_COLUMNS: readonly Column<FaultKind>[] = [
  ['FAULT', (kind) => kind],
  ['PHASES', (kind) => KIND_TERMS[kind].phases.join(' ') || NONE],
  ['SURVIVED', (kind) => KIND_TERMS[kind].recovery],
];

export const faultLines = (): string[] => table(FAULT_KINDS, KIND_COLUMNS, 0);

export function runLines(plan: ChaosPlan, { verdict, violations, faults, calls, events, virtual_ms, traces }: RunReport): string[] {
  const [trace, ...others] = traces;
  return [
    ...(plan.faults.length === 0 ? ['No faults.'] : table(faults, FAULT_COLUMNS, 1)),
    '',
    ...table([...calls.entries()], CALL_COLUMNS, 1),
    '',
    ...violations.map(({ verdict: how, what }) => `${how}: ${what}`),
    `${verdict === 'held' ? 'All held' : `It did not hold: ${verdict}`}, in ${events} events, ${virtual_ms.toFixed(1)} ms of virtual time.`,
    ...(trace === undefined
      ? []
      : [`Recorded in ${trace}${others.length === 0 ? '' : `, and, whenever the control thread was lost, on in ${others.join(', ')}`}.`]),
  ];
}

const canaryLine = ({ seeds: { first, last }, seed, verdict, faults }: CanaryReport): string =>
  seed === null
    ? `The canary was not found in seeds ${first}..${last}: of a campaign that finds nothing it says nothing that all held.`
    : `The canary was found by seed ${seed}: ${verdict}, by ${faults.join(', ')}.`;

export function campaignLines(
  report: CampaignReport,
  seconds: number,
  repeat: (seed: number) => string,
  traces: ReadonlyMap<number, readonly string[]>,
): string[] {
  const { runs, failures, verdicts, coverage, calls, events, canary } = report;
  const failed = failures.flatMap(({ seed, verdict, violations }) => {
    const files = traces.get(seed) ?? [];
    return [`seed ${seed}: ${verdict}: ${violations[0]?.what ?? ''}`, `  ${repeat(seed)}${files.length === 0 ? '' : `      # trace: ${files.join(', ')}`}`];
  });
  const sums = Object.entries(verdicts).map(([verdict, count]) => `${count} ${verdict}`);
  return [
    ...table(coverage, COVERAGE_COLUMNS, 4),
    '',
    ...failed,
    ...(canary === null ? [] : [canaryLine(canary)]),
    `${runs} runs, ${calls} calls, ${events} events in ${seconds.toFixed(1)} s, ${(runs / seconds).toFixed(1)} a second: ${sums.join(', ')}.`,
  ];
}
