/**
 * One run of a fault plan in virtual time.
 *
 *   safety     the calls, while faults strike: each token is compared as it comes, each end must be explained
 *   progress   all is healed: the same pod answers once more, then holds nothing
 *
 * @module
 */
import type { PodOptions } from '../options/options.ts';
import { expertMapsOf } from '../platform/births.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { VirtualPod } from '../pod/virtual-pod.ts';
import type { Address } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import { breathe } from '../runtime/event-loop.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import type { PodStats } from '../stats.ts';
import { Agenda } from './agenda.ts';
import { Arrivals } from './arrivals.ts';
import { CallTimes } from './call-times.ts';
import { type CallReport, type ClientTerms, playClient } from './client.ts';
import { Clients } from './clients.ts';
import { deadLoops } from './dead-loops.ts';
import { type ChaosCall, type ChaosPlan, LIMITS } from './fault-plan.ts';
import type { FaultReport } from './fault-report.ts';
import { FullDisk } from './full-disk.ts';
import { Injector } from './injector.ts';
import { FOR_WANT, type Verdict, type Violation, verdictOfFailure, violationsAtRest, violationsOfCall, worst } from './invariants.ts';
import { lateEnds, unfollowedLeaders, unfoundHangs } from './lateness.ts';
import { MaskedSteps, wrongOfMasked } from './masked-reference.ts';
import { checkPlan, checkRefused } from './plan-checks.ts';
import { isRefusedForLoss } from './shape-refusals.ts';
import type { Undisturbed } from './undisturbed.ts';

export type RunReport = {
  readonly verdict: Verdict;
  readonly violations: readonly Violation[];
  readonly faults: readonly FaultReport[];
  readonly calls: readonly CallReport[];
  readonly events: number;
  readonly virtual_ms: number;
  /** When the calls had ended, from the first phase's beginning. */
  readonly calls_ended_ms: number;
  /** Workers that were given up, since somebody on them was silent. */
  readonly given_up: number;
  /** The files that it is recorded in: the second is of the pod that began when the control thread was lost. */
  readonly traces: readonly string[];
};

/** What a fault draws comes from a stream of its own: another fault changes no delay. */
const FAULTS_STREAM = 3;
/** More than any plan asks for, and fewer than a pod's own default, which is looked through at each start. */
const QUEUED = LIMITS.calls_max * LIMITS.choices_max;
/** Of one run; the longest of some thousand that held took a quarter: clocks that ran twenty times as fast for half a minute. */
const EVENTS_MAX = 150_000;
/** Beside them, of a pod that waits for what the plan has in store, and looks after itself meanwhile: two of an executor that balances every 10 ms have 1.6. */
const EVENTS_A_MS = 10;
/** Asked of a pod that is healed: one that needs all stages, and one that may begin with what others computed. */
const PROGRESS: readonly ChaosCall[] = [
  { ms: 0, key: 900_001, prompt_tokens: 21, stem_tokens: 0, max_tokens: 4, n: 2 },
  { ms: 0, key: 900_002, prompt_tokens: 18, stem_tokens: 16, max_tokens: 3, n: 1 },
];
/** As many of them as the pod takes in at once. */
const progressOf = ({ max_queued = QUEUED }: PodOptions): readonly ChaosCall[] => {
  let room = max_queued;
  return PROGRESS.flatMap((call) => {
    const n = Math.min(call.n, room);
    room -= n;
    return n > 0 ? [{ ...call, n }] : [];
  });
};
const STAYS: ClientTerms = { leaves: -1, turns: 0 };

/** `record`: a file for the run's trace. `plant`: a bug that the pod has from the first call on (canary.ts). */
export type RunOptions = { readonly record?: string; readonly plant?: ((control: VirtualControl) => void) | undefined };

/** @throws `invalid_request` for a pod that cannot be, or what it cannot do, and a fault of what it does not have */
export async function runPlan(plan: ChaosPlan, undisturbed: Undisturbed, { record, plant }: RunOptions = {}): Promise<RunReport> {
  const options = { kernels: 'hash', max_queued: QUEUED, ...plan.pod, seed: plan.seed, ...(record !== undefined && { record }) } as PodOptions;
  using disk = plan.faults.some(({ kind }) => kind === 'trace-disk-full') ? new FullDisk(record) : null;
  await using pod = await undisturbed.createPod(disk === null ? options : { ...options, record: disk.path }, plan.mtp_layers, disk ?? undefined);
  const agenda = new Agenda(pod.control.host);
  const now_ns = (): number => pod.control.host.now_ns;
  const began_ns = now_ns();
  checkPlan(plan, pod.control.plan);
  const violations: Violation[] = [];
  let events = 0;
  const planned_ms = lastMoment_ms(plan);
  const eventsMax = (): number => EVENTS_MAX + EVENTS_A_MS * Math.min(planned_ms, (now_ns() - began_ns) / 1e6);
  const arrivals = new Arrivals(pod, pod.control.host);
  const times = new CallTimes(pod);
  /** The pod, or the one in its place. */
  const attend = (control: VirtualControl): void => {
    const step = control.step.bind(control);
    control.step = () => {
      try {
        if (++events > eventsMax()) throw new MinipodError('internal', `after so many events, ${events}, these wait: ${control.waiting().join(', ')}`);
        const isOn = step();
        times.look();
        return isOn;
      } catch (error) {
        arrivals.hurry();
        throw error;
      }
    };
    plant?.(control);
  };
  // One that something broken has kept from its end says so, and so does one that comes while another is under way, or is of more than is left.
  const noteFailure = (error: unknown): void => {
    if (error instanceof MinipodError && isRefusedForLoss(error.message, injector.lives.losses)) return;
    if (!(error instanceof MinipodError) || error.code === 'internal' || error.code === 'invalid_request')
      violations.push({ verdict: 'crash', what: `a change of the pod failed: ${error}` });
  };
  const born = pod.control.host.cast.addresses;
  const clients = new Clients();
  const random = new SeededRandom(plan.seed, FAULTS_STREAM);
  const injector = new Injector(pod, agenda, plan.faults, random, () => underWay(pod.control), clients, disk);
  const progress = progressOf(options);
  const answers = await Promise.all([...plan.calls, ...progress].map((call) => undisturbed.answerOf(plan, call)));
  const ask = (calls: readonly ChaosCall[], first: number, termsOf: (index: number) => ClientTerms): Promise<CallReport[]> =>
    arrivals.each(calls, (call, index) => playClient(pod, call, answers[first + index] ?? [], termsOf(index), attemptOf));
  const masked = plan.pod['degraded'] === true ? new MaskedSteps(pod.control) : null;
  const attemptOf = masked === null ? null : (request: number): number => masked.attemptOf(request);
  /** What they were told without some experts. */
  const wrongOf = async (calls: readonly ChaosCall[], reports: readonly CallReport[]): Promise<Violation[]> => {
    const found: Violation[] = [];
    for (const [index, { id, told = [] }] of reports.entries())
      for (const [choice, one] of told.entries())
        for (const what of masked === null ? [] : await wrongOfMasked(plan, calls[index] as ChaosCall, id, choice, one, masked, undisturbed))
          found.push({ verdict: 'wrong result', what: `call ${index}: ${what}` });
    return found;
  };

  attend(pod.control);
  pod.onLost = (successor_ns) => {
    injector.lose();
    arrivals.hurry(successor_ns);
  };
  pod.onSucceeded = (control) => {
    attend(control);
    masked?.watch(control);
    injector.attend();
    agenda.moveTo(control.host);
    arrivals.moveTo(control.host);
  };
  injector.begin();
  for (const { ms, ...shape } of plan.shapes ?? []) agenda.later(ms * 1e6, () => pod.scale(shape).catch(noteFailure));
  for (const { ms } of plan.rebalances ?? []) agenda.later(ms * 1e6, () => pod.rebalance({ force: true }).catch(noteFailure));
  const calls = await ask(plan.calls, 0, (call) => ({ ...termsOf(plan, call), onAsked: (id, abort) => clients.enter(call, id, abort) }));
  await checkRefused(plan, { ...options, record: undefined }, calls, undisturbed);
  const calls_ended_ms = (now_ns() - began_ns) / 1e6;
  injector.commit(calls);
  // What hangs does so to its end: who takes its place may only find out now.
  if (isAlive(calls)) violations.push(...(await rest(pod)));
  injector.heal();
  const faults = injector.report();
  const { lives } = injector;
  const silent = lives.brokenLinks + lives.givenUp;
  for (const [index, call] of calls.entries()) {
    const lacked = lives.hasLacked(plan.calls[index]?.data_parallel_rank, times.spanOf(call.id)?.until_ms ?? Number.POSITIVE_INFINITY);
    violations.push(...violationsOfCall(plan, faults, index, call, { silent, lacked }));
  }
  violations.push(...(await wrongOf(plan.calls, calls)));
  const taken = calls.map(({ id }) => ({ span: times.spanOf(id), isUnwatched: times.isUnwatched(id) }));
  const hangs = injector.hangs.ended;
  if (isAlive(calls))
    violations.push(
      ...unfoundHangs(plan, faults, hangs, taken),
      ...unfollowedLeaders(plan, faults, hangs),
      ...lateEnds(plan, faults, taken, lives.gaps, 2 * injector.slowest_ms + lives.slowestMove_ns / 1e6),
    );
  if (violations.length === 0) violations.push(...(await rest(pod)));
  if (violations.length === 0) {
    const again = await ask(progress, plan.calls.length, () => STAYS);
    // Of what is lost for good nobody is to make progress, but to hear so.
    for (const [index, call] of again.entries())
      if ((lives.losses.lacks ? !FOR_WANT.includes(call.code) : call.code !== 'finished') || call.wrong.length > 0) violations.push(afterHealing(index, call));
    violations.push(...(await wrongOf(progress, again)));
    violations.push(...(await rest(pod)));
  }
  if (violations.length === 0) {
    const { control } = pod;
    const { host } = control;
    const held = { choices: control.choicesHeld, records: control.frontend.recordsUsed, actors: host.cast.actors, frames: host.framesUnderWay };
    const living = born.filter((actor) => !isLost(control, actor)).length;
    violations.push(...violationsAtRest(withoutLost(await pod.stats(), control), held, living));
    violations.push(...deadLoops(control).map((what): Violation => ({ verdict: 'lost progress', what })));
  }
  if (disk !== null) {
    await pod.close();
    injector.commitTrace();
    violations.push(...disk.wrong().map((what): Violation => ({ verdict: 'wrong result', what })));
  }
  return {
    verdict: worst(violations),
    violations,
    faults: injector.report(),
    calls,
    events,
    virtual_ms: (now_ns() - began_ns) / 1e6,
    calls_ended_ms,
    given_up: lives.givenUp,
    traces: record === undefined ? [] : pod.traces,
  };
}

/** What a loss meets, calls or not. */
const underWay = ({ frontend, scale, host: { cast }, plan }: VirtualControl): number =>
  frontend.open.size + Number(scale.isUnderWay) + expertMapsOf(plan).filter(({ self }) => cast.stateOf(self) !== 'stable').length;

/** With its worker, which has no successor. */
const isLost = ({ directory, workers }: VirtualControl, actor: Address): boolean => {
  const worker = directory.seating.threads.indexOf(directory.threadOf(actor));
  return worker >= 0 && workers.isLost(worker);
};

/** Whoever is left of a group that has lost an NPU for good is told nothing any more: what it held stays there, and nobody gets it. */
function withoutLost(stats: PodStats, { plan, directory, workers }: VirtualControl): PodStats {
  const { groups } = plan.hosting.deployment;
  const broken = new Set(groups.filter(({ npus }) => npus.some((npu) => workers.isLost(directory.workerOfNpu(npu)))).flatMap(({ npus }) => npus));
  return { ...stats, npus: stats.npus.filter(({ npu }) => !broken.has(npu)) };
}

const afterHealing = (index: number, { code, message, wrong }: CallReport): Violation => ({
  verdict: code === 'finished' ? 'wrong result' : code === 'crash' ? 'crash' : 'lost progress',
  what: `all is healed, and call ${index} of the second phase ended with ${code} ${message} ${wrong.join('; ')}`.trimEnd(),
});

function termsOf({ faults }: ChaosPlan, call: number): ClientTerms {
  const gone = faults.find((fault) => fault.kind === 'client-gone' && fault.at === undefined && fault.call === call);
  const slow = faults.find((fault) => fault.kind === 'client-slow' && fault.call === call);
  return { leaves: gone?.kind === 'client-gone' ? (gone.after_chunks ?? 0) : -1, turns: slow?.kind === 'client-slow' ? slow.turns : 0 };
}

/** By then all that has a time has struck, come or healed. */
const lastMoment_ms = ({ faults, calls, shapes = [], rebalances = [] }: ChaosPlan): number =>
  Math.max(
    0,
    ...[...calls, ...shapes, ...rebalances].map(({ ms }) => ms),
    ...faults.map((fault) => ('at' in fault && fault.at !== undefined && 'ms' in fault.at ? fault.at.ms : 0) + ('for_ms' in fault ? fault.for_ms : 0)),
  );

/** A pod that has failed stands still. */
const isAlive = (calls: readonly CallReport[]): boolean => calls.every(({ code }) => code !== 'internal' && code !== 'crash');

/** Callers hear of their end before the last messages about it have arrived. */
async function rest(pod: VirtualPod): Promise<Violation[]> {
  try {
    await pod.rest();
    await breathe();
    await pod.rest();
    return [];
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return [{ verdict: verdictOfFailure(message), what: `the pod does not come to rest: ${message}` }];
  }
}
