/**
 * What must hold of every run, whatever went wrong in it (DESIGN.md, promises 2 and 5).
 * @module
 */
import { DAMAGED_MAX } from '../flowserve/steps/asked-peers.ts';
import type { PodStats } from '../stats.ts';
import type { CallReport } from './client.ts';
import { LOSING } from './fault-kinds.ts';
import type { ChaosPlan, FaultKind } from './fault-plan.ts';
import type { FaultReport } from './fault-report.ts';
import { leftovers } from './nothing-left.ts';

/** From bad to worse: what is told of a run that broke several. */
const VERDICTS = ['held', 'lost progress', 'crash', 'wrong result'] as const;
export type Verdict = (typeof VERDICTS)[number];
export type Violation = { readonly verdict: Exclude<Verdict, 'held'>; readonly what: string };

/** A request is moved so often without a token in between (actors/request.ts); what is lost once more under it fails. */
const LOSSES_BORNE = 2;

/** So fails a step whose rows go bad again and again (flowserve/steps/asked-peers.ts, round-lanes.ts). */
const DAMAGED = /^rows .* not what was left there/;

/** What records have no room for is lost with what computes it (flowserve/records/record-table.ts). */
const UNRECORDED = /there was no room to record/;

/** Of a pod that has failed: it says of itself where nothing is left to happen, or the same goes on for ever. */
export const verdictOfFailure = (message: string): Exclude<Verdict, 'held'> =>
  /nothing is left to happen|so many events|for ever/.test(message) ? 'lost progress' : 'crash';

/** So ends what nobody can compute: there are no experts for it, or no attention. */
export const FOR_WANT: readonly string[] = ['experts_lost', 'groups_lost'];

/** `silent`: workers that were lost since nothing came through to them, or from them. `lacked`: at some moment there was nobody who could compute it, nor to come (losses.ts). */
export type Circumstances = { readonly silent: number; readonly lacked: boolean };

/** Codes that a call of the plan may end with, for a reason that the faults which took effect give. */
function explained(
  { calls }: ChaosPlan,
  reports: readonly FaultReport[],
  call: number,
  { id, message }: CallReport,
  { silent, lacked }: Circumstances,
): ReadonlySet<string> {
  const effective = (kind: FaultKind): number => reports.filter((report) => report.kind === kind && report.effect > 0).length;
  const codes = new Set(['finished']);
  if (reports.some(({ kind, effect, call: left }) => kind === 'client-gone' && effect > 0 && left === call)) codes.add('cancelled');
  // What was lent of a step that memory went bad under is lost with it.
  const losses = [...LOSING, 'kv-bit-flip' as const].reduce((sum, kind) => sum + effective(kind), silent);
  // Of two steps of one NPU that failed either may have been the call's.
  const failed = reports.some(({ failing }) => failing?.calls.includes(id) === true && message.includes(failing.message));
  if (failed || losses > LOSSES_BORNE) codes.add('worker_failed');
  // For want of experts groups are given up too, with what has no record.
  if (UNRECORDED.test(message) && (losses > 0 || lacked)) codes.add('worker_failed');
  if (effective('row-bit-flip') > DAMAGED_MAX && DAMAGED.test(message)) codes.add('worker_failed');
  if (lacked) for (const code of FOR_WANT) codes.add(code);
  if (calls[call]?.deadline_ms !== undefined) codes.add('deadline_exceeded');
  return codes;
}

const UNTROUBLED: Circumstances = { silent: 0, lacked: false };

/** Of a call that has ended: its tokens, which were compared as they came, and its end. */
export function violationsOfCall(
  plan: ChaosPlan,
  reports: readonly FaultReport[],
  call: number,
  report: CallReport,
  circumstances: Circumstances = UNTROUBLED,
): Violation[] {
  const { code, message, tokens, wrong } = report;
  const found: Violation[] = wrong.map((what) => ({ verdict: 'wrong result', what: `call ${call}: ${what}` }));
  if (code === 'overloaded') {
    if (tokens > 0) found.push({ verdict: 'wrong result', what: `call ${call} was refused, and got ${tokens} tokens` });
    if (plan.pod['max_queued'] === undefined) found.push({ verdict: 'wrong result', what: `call ${call} was refused: ${message}` });
    return found;
  }
  if (explained(plan, reports, call, report, circumstances).has(code)) return found;
  const hasFailed = code === 'internal' || code === 'crash';
  const verdict = hasFailed ? verdictOfFailure(message) : 'wrong result';
  return [...found, { verdict, what: `call ${call} ended with ${code}, which no fault explains: ${message}` }];
}

export type Held = {
  readonly choices: number;
  readonly records: { readonly calls: number; readonly records: number; readonly pages: number };
  readonly actors: number;
  /** Between threads. */
  readonly frames: number;
};

/** Of a pod at rest; `actors`: how many it is to have. */
export function violationsAtRest(stats: PodStats, held: Held, actors: number): Violation[] {
  const leaked = [
    ...leftovers(stats),
    ...(held.frames > 0 ? [`${held.frames} frames between threads that nobody takes`] : []),
    ...(held.choices > 0 ? [`admission counts ${held.choices} choices`] : []),
    ...(held.records.records + held.records.pages > 0 ? [`${held.records.records} request records on ${held.records.pages} pages are in use`] : []),
    ...(held.actors === actors ? [] : [`${held.actors} actors live, of those there were at first ${actors} are to`]),
  ];
  const unexpected = stats.unexpected_messages.map((what): Violation => ({ verdict: 'crash', what: `an actor was sent what it did not expect: ${what}` }));
  return [...leaked.map((what): Violation => ({ verdict: 'wrong result', what: `something is left: ${what}` })), ...unexpected];
}

export const worst = (violations: readonly Violation[]): Verdict =>
  VERDICTS.findLast((verdict) => violations.some((violation) => violation.verdict === verdict)) ?? 'held';
