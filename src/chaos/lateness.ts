/**
 * What comes, but later than it may: a part that hangs and is not given up while calls wait, a leader that hangs and is not followed, and a call that goes on after its own
 * deadline. Each has a bound, from the constants of heartbeats and of the leader's lease, and what else was broken meanwhile may have held it up for as long as that lasted.
 * @module
 */
import { LEASE_MS, RENEWAL_MS } from '../../actors/cluster-manager.ts';
import { BEAT_MS, SILENCE_MS_MAX } from '../../actors/policies/heartbeats.ts';
import { CONTROL_SILENT_MS_MAX } from '../platform/suspicions.ts';
import { ON_CONTROL } from '../runtime/directory.ts';
import type { Span } from './call-times.ts';
import { LOSING } from './fault-kinds.ts';
import type { ChaosPlan, Fault, FaultKind } from './fault-plan.ts';
import type { FaultReport } from './fault-report.ts';
import type { Hang } from './hangs.ts';
import type { Violation } from './invariants.ts';

/** Whoever asks them tells the host, which can give their workers up: of a leader that hangs the lease runs out instead. */
const ASKED: ReadonlySet<FaultKind> = new Set(['worker-hangs', 'npu-hangs', 'dp-group-hangs', 'job-executor-hangs', 'task-executor-hangs']);
/** The leader asks these, the others whoever has them. */
const OF_LEADER: ReadonlySet<FaultKind> = new Set(['job-executor-hangs', 'task-executor-hangs']);
/** From the first question that is not answered. Looks come twice a beat, so they come to more than is borne within a beat. */
const FOUND_MS = SILENCE_MS_MAX + BEAT_MS;
/** From whatever it did not hear first to that question: a task executor begins to ask when it is asked itself, at the latest. */
const ASKED_MS = 2 * BEAT_MS;
/** A lease that was renewed just before it hung runs out, and who stands by has looked just before that. */
const FOLLOWED_MS = 2 * LEASE_MS;
/** A frame that is lost again and again is sent again for so long, before its link is given up. */
const RESENT_MS = 250;
/** Of a call whose time is over, with steps that take microseconds. */
const ENDED_MS = 20;

/** For how long it can hold up others. What is lost is told of at once, and nobody who is to hear of an end waits for a successor. */
function delayOf(fault: Fault): number {
  switch (fault.kind) {
    case 'npu-slow':
    case 'npu-jitter':
    case 'clock-skew':
      return 0;
    case 'message-delayed':
    case 'message-reordered':
      return fault.for_ms + fault.delay_ms;
    case 'message-dropped':
    case 'message-corrupted':
      return fault.for_ms + RESENT_MS;
    default:
      return 'for_ms' in fault ? fault.for_ms : 0;
  }
}

/** What takes `ms` where nothing is broken, while these are. */
const atMost = (ms: number, broken: readonly Fault[]): number =>
  ms * broken.reduce((factor, fault) => (fault.kind === 'clock-skew' ? factor * Math.max(1, fault.factor) : factor), 1) +
  broken.reduce((sum, fault) => sum + delayOf(fault), 0);

const overlap = (one: Span, other: Span): number => Math.min(one.until_ms, other.until_ms) - Math.max(one.since_ms, other.since_ms);

type Struck = Pick<FaultReport, 'struck'>;

/** How a call took its time. `isUnwatched`: once it was on its way without anything that would have ended it. */
export type Taken = { readonly span: Span | null; readonly isUnwatched: boolean };

/** Hangs that outlasted what finding them takes, though a call was open all the time. */
export function unfoundHangs({ faults }: ChaosPlan, reports: readonly Struck[], hangs: readonly Hang[], calls: readonly Pick<Taken, 'span'>[]): Violation[] {
  return hangs.flatMap(({ fault: index, worker, span, asked_ms, isFound }): Violation[] => {
    const fault = faults[index] as Fault;
    if (!ASKED.has(fault.kind) || isFound || span === null) return [];
    const untilAsked_ms = Math.min((asked_ms ?? span.until_ms) - span.since_ms, OF_LEADER.has(fault.kind) ? RENEWAL_MS : ASKED_MS);
    const others = faults.filter((_, other) => other !== index && reports[other]?.struck === true);
    const bound_ms = atMost(untilAsked_ms + FOUND_MS + (worker === ON_CONTROL ? unansweredOnControl_ms(others) : 0), others);
    const waited_ms = Math.max(0, ...calls.map((call) => (call.span === null ? 0 : overlap(call.span, span))));
    if (waited_ms <= bound_ms) return [];
    const what = `${fault.kind}, fault ${index}: nobody gave it up while a call was open for ${waited_ms} ms; ${bound_ms} ms are enough`;
    return [{ verdict: 'lost progress', what }];
  });
}

/** The control thread is given up later than others. A leader that is new has asked nobody before. */
function unansweredOnControl_ms(others: readonly Fault[]): number {
  const leaders = others.filter(({ kind }) => LOSING.includes(kind) || ASKED.has(kind) || kind === 'cluster-manager-hangs').length;
  return CONTROL_SILENT_MS_MAX + leaders * (FOLLOWED_MS + CONTROL_SILENT_MS_MAX);
}

/** Leaders that hung for so long that another one was to lead. Whoever begins anew meanwhile begins to stand by anew. */
export function unfollowedLeaders({ faults }: ChaosPlan, reports: readonly Struck[], hangs: readonly Hang[]): Violation[] {
  return hangs.flatMap(({ fault: index, span, isFound, isReplaced }): Violation[] => {
    if (faults[index]?.kind !== 'cluster-manager-hangs' || isFound || isReplaced || span === null) return [];
    const others = faults.filter((_, other) => other !== index && reports[other]?.struck === true);
    const losses = others.filter(({ kind }) => LOSING.includes(kind) || ASKED.has(kind)).length;
    const bound_ms = atMost((1 + losses) * FOLLOWED_MS, others);
    const hung_ms = span.until_ms - span.since_ms;
    if (hung_ms <= bound_ms) return [];
    return [{ verdict: 'lost progress', what: `cluster-manager-hangs, fault ${index}: for ${hung_ms} ms, and no other one leads; ${bound_ms} ms are enough` }];
  });
}

/**
 * Calls that ended later than they were to, or would have; one whose time ends in a gap, while there is no pod, ends when there is one again. `goes_on_ms`: what one that is
 * let go of waits for, the longest step and the one behind it, and KV on its way.
 */
export function lateEnds(
  { calls, faults }: ChaosPlan,
  reports: readonly Struck[],
  taken: readonly Taken[],
  gaps: readonly Span[],
  goes_on_ms: number,
): Violation[] {
  const broken = faults.filter((_, index) => reports[index]?.struck === true);
  return calls.flatMap(({ deadline_ms }, index): Violation[] => {
    const { span, isUnwatched } = taken[index] as Taken;
    if (deadline_ms === undefined || span === null) return [];
    const late = (how: string): Violation[] => [{ verdict: 'lost progress', what: `call ${index} was to take ${deadline_ms} ms at most, and ${how}` }];
    if (isUnwatched) return late('went on as another request without a timer that would end it');
    const untilEnded_ms = (ms: number): number => atMost(ms, broken) + goes_on_ms + ENDED_MS;
    const until_ms = gaps.reduce(
      (latest_ms, gap) => (gap.since_ms > latest_ms ? latest_ms : Math.max(latest_ms, gap.until_ms + untilEnded_ms(0))),
      span.since_ms + untilEnded_ms(deadline_ms),
    );
    return span.until_ms > until_ms ? late(`took ${span.until_ms - span.since_ms}; ${until_ms - span.since_ms} are enough`) : [];
  });
}
