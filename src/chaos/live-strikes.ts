/** Strikes at a live pod, one after the other: calls are asked, something breaks amid them, and what becomes of both is held against what must. @module */
import type { LivePod } from '../pod/live-pod.ts';
import type { Pod } from '../pod.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Clock } from '../runtime/clock.ts';
import { CONTROL_THREAD } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import type { PodStats } from '../stats.ts';
import { type AskedPod, type CallReport, playClient } from './client.ts';
import { liesThere, undo } from './damage.ts';
import type { ChaosCall } from './fault-plan.ts';
import type { Violation } from './invariants.ts';
import { boundOf, type Waits, waitedSince, waitsOfAll } from './live-bounds.ts';
import { ControlStriker, controlParts } from './live-control.ts';
import { endsFor, findingsOf, hasFoundMore, lossesOf, lossOf, partsOf, type StallParts } from './live-findings.ts';
import { type ControlKind, type Guard, isOfControl, type LiveKind, type NoticedBy, WORKER_KINDS, type WorkerKind } from './live-kinds.ts';
import { type Effect, LiveOrder } from './live-order.ts';
import type { Undisturbed } from './undisturbed.ts';

/**
 * `struck`: it took effect. `struck_ms`: when its order was given, by the run's clock, from which on stalls count. `guard`: by what it is noticed; null: it took none. `stall_ms`: the longest that any caller waited for its next tokens after the strike.
 * `bound_ms`: that may be no longer, where nobody finds what heals by itself (live-bounds.ts).
 * `parts`: of which it took so long for what; null: nobody was lost for it, or it had no successor yet.
 */
export type Strike = {
  readonly kind: LiveKind;
  readonly struck: boolean;
  readonly guard: NoticedBy | null;
  readonly struck_ms: number;
  readonly stall_ms: number;
  readonly bound_ms: number | null;
  readonly parts: StallParts | null;
};
type Order = {
  readonly number: number;
  readonly kind: LiveKind;
  readonly worker: number;
  /** Of each call, when it strikes. */
  readonly after_tokens: number;
  readonly asked: readonly ChaosCall[];
  /** Of what the strike draws for itself. */
  readonly seed: number;
};

/** `server`: HTTP before the pod, for calls amid which the control thread is lost. `threads`: seats of workers. */
type Surroundings = {
  readonly pod: LivePod;
  readonly server: AskedPod | null;
  readonly clock: Clock;
  readonly undisturbed: Undisturbed;
  readonly threads: number;
  readonly spare_workers: number;
  readonly aborted: Promise<void>;
  readonly isAborted: () => boolean;
};

/** Calls that are asked at once. `heard`: when their tokens came. */
type Round = { readonly heard: readonly number[][]; readonly ended: Promise<readonly CallReport[]> };

const TAKEN_MS_MAX = 5_000;
/** A silent one is found in some 300 ms where there is work, in 1.3 s where there is none, and later where its thread has to wait for a processor. */
const FOUND_MS_MAX = 60_000;
/** No token of any call, the recovery of what was struck amid them included. How long all of them take is a matter of what else the machine does. */
const SILENCE_MS_MAX = 60_000;
/** The same where the whole pod begins anew, for which its threads alone may take a minute (platform/control.ts): 57 s were seen where thirty processes waited for two cores. */
const BEGINS_MS_MAX = 180_000;
const ANSWERS_MS_MAX = 600_000;
const POLL_MS = 10;
const LOOK_MS = 1_000;
/** So often memory may go bad, and nobody has read it before its calls have ended twice. */
const UNREAD_MAX = 9;
const STAYS = { leaves: -1, turns: 0 } as const;

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

const pause = (ms: number): Promise<void> => waitAtMost(new Promise<never>(() => {}), ms);

export class LiveStrikes {
  readonly violations: Violation[] = [];
  calls = 0;
  tokens = 0;
  /** Threads that were lost in lives of the pod that are over, each one's control thread among them. */
  lost = 0;
  readonly #around: Surroundings;
  readonly #control: ControlStriker;
  #order: LiveOrder;
  /** How often memory has gone bad since that was last found. */
  readonly #unfound = new Map<Guard, number>();

  constructor(around: Surroundings) {
    this.#around = around;
    this.#order = new LiveOrder(around.pod.space);
    this.#control = new ControlStriker(around.pod, around.clock);
  }

  /** Until such a strike may come, in a pod that bears only so many in a minute. */
  waits_ms(kind: LiveKind): number {
    return isOfControl(kind) ? this.#control.waits_ms : 0;
  }

  /** Null: broken off, or its calls do not end. */
  async strike(order: Order): Promise<Strike | null> {
    const { number, kind, worker } = order;
    const where = `strike ${number}, ${kind}${isOfControl(kind) ? '' : ` of worker ${worker}`}`;
    try {
      return await this.#strike(order, where);
    } catch (error) {
      // So answers a pod that has ended, or whose control thread is lost.
      if (!(error instanceof MinipodError)) throw error;
      this.violations.push({ verdict: 'crash', what: `${where}: the pod does not answer: ${error.message}` });
      return null;
    }
  }

  /** The pod began anew, and nobody has struck it. */
  unexplained(stats: PodStats): Violation[] {
    return this.#control.unexplained(stats).map(({ reason }) => ({ verdict: 'crash', what: `the pod began anew: ${reason}` }));
  }

  async #strike({ kind, worker, after_tokens, asked, seed }: Order, where: string): Promise<Strike | null> {
    const { pod, server, clock, isAborted } = this.#around;
    const stats = await pod.stats();
    const before = findingsOf(stats);
    this.violations.push(...this.unexplained(stats).map((violation) => at(`before ${where}`, violation)));
    const round = await this.#ask(asked, isOfControl(kind) ? server : null);
    const asked_ms = clock.now_ms();
    const isEarly = (): boolean => round.heard.some((times) => times.length < after_tokens) && clock.now_ms() - asked_ms < ANSWERS_MS_MAX;
    // What waits for its chance is there from the first: who only prefills has none later.
    const isAwaited = (WORKER_KINDS as readonly LiveKind[]).includes(kind) || seed % 2 === 0;
    while (isAwaited && !isAborted() && isEarly() && (await isPending(round.ended))) await pause(1);
    if (isOfControl(kind)) return this.#loseControl(kind, round, where, seed, stats);
    const waits = boundOf(kind) === null ? null : waitsOfAll();
    const struck_ms = clock.now_ms();
    this.#give(worker, kind, seed);
    const mayBeTaken = async (): Promise<boolean> => isHeldUp(kind) || (await isPending(round.ended));
    while (!isAborted() && !this.#order.isTaken && clock.now_ms() - struck_ms < TAKEN_MS_MAX && (await mayBeTaken())) await pause(1);
    if (!(await this.#hear(round, struck_ms, where))) return null;
    const effect = await this.#withdraw();
    const stall = longestStall(round, struck_ms);
    const missed = { kind, struck: false, guard: null, struck_ms, stall_ms: stall.ms, bound_ms: null, parts: null };
    if (this.violations.length > 0 || isAborted()) return missed;
    if (effect === null) {
      if (isHeldUp(kind)) this.violations.push({ verdict: 'lost progress', what: `${where}: its thread did not take it up in ${seconds(TAKEN_MS_MAX)}` });
      return missed;
    }
    const bound_ms = this.#holdBound(kind, where, stall.ms, waits);
    const { guard, damage } = effect;
    const hasFound = async (): Promise<boolean> => hasFoundMore(guard, before, findingsOf(await pod.stats()));
    const isIt = endsFor(guard, worker);
    const ended = async (): Promise<StallParts | null> => (isIt === null ? null : partsOf(pod, isIt, struck_ms, stall.ended_ms, clock));
    const struck = (parts: StallParts | null): Strike => ({ kind, struck: true, guard, struck_ms, stall_ms: stall.ms, bound_ms, parts });
    switch (guard) {
      case 'end':
      case 'frame': {
        // Who hangs and has nothing to do is found all the same, if not while these calls ran.
        const parts = await this.#until(ended);
        // Deno ends no thread that runs, and bears its silence where no spare seat is left.
        if (parts === null && !isAborted() && !('Deno' in globalThis && guard === 'end'))
          this.violations.push({ verdict: 'lost progress', what: `${where}: nobody ended for it and had a successor within ${seconds(FOUND_MS_MAX)}` });
        return struck(parts);
      }
      case 'weights':
      case 'kv':
      case 'rows': {
        const isFound = async (): Promise<boolean> => (isIt === null ? await hasFound() : (await lossOf(pod, isIt, struck_ms, clock)) !== null);
        // Whose memory nobody has read since: the same calls read it once more, if they come to the same place.
        if (!(await isFound()) && damage !== undefined && liesThere(pod.space, damage) && !(await this.#hear(await this.#ask(asked), clock.now_ms(), where)))
          return missed;
        if (await isFound()) {
          this.#unfound.set(guard, 0);
          return struck(isIt === null ? null : await this.#until(ended));
        }
        const unfound = (this.#unfound.get(guard) ?? 0) + 1;
        this.#unfound.set(guard, unfound);
        if (unfound > UNREAD_MAX) this.violations.push({ verdict: 'wrong result', what: `${where}: ${unfound} times in a row nobody has found what went bad` });
        if (damage !== undefined) undo(pod.space, damage);
        // They were on their way to one that takes them and looks, and all calls have ended since.
        else if (findingsOf(await pod.stats()).lives === before.lives)
          this.violations.push({ verdict: 'wrong result', what: `${where}: its calls have ended, and nobody has found that the rows were other ones` });
        return missed;
      }
      case 'restated': {
        const isMended = await this.#until(async () => (damage !== undefined && liesThere(pod.space, damage) ? null : true));
        if (isMended === null && !isAborted())
          this.violations.push({ verdict: 'lost progress', what: `${where}: it is still said after ${seconds(FOUND_MS_MAX)}` });
        return struck(null);
      }
      case 'nobody':
        return struck(null);
    }
  }

  /** Its four calls go on in the pod's next life, and so do those that come over HTTP. */
  async #loseControl(kind: ControlKind, round: Round, where: string, seed: number, before: PodStats): Promise<Strike | null> {
    const { pod, clock, spare_workers, isAborted } = this.#around;
    const struck_ms = clock.now_ms();
    const becomes = this.#control.strike(kind, seed);
    if (!(await this.#hear(round, struck_ms, where, BEGINS_MS_MAX))) return null;
    const stall = longestStall(round, struck_ms);
    const missed = { kind, struck: false, guard: null, struck_ms, stall_ms: stall.ms, bound_ms: null, parts: null } as const;
    const outcome = await this.#until(becomes, BEGINS_MS_MAX);
    if (outcome === null && !isAborted())
      this.violations.push({ verdict: 'lost progress', what: `${where}: it was not lost, or had no successor, within ${seconds(BEGINS_MS_MAX)}` });
    if (outcome === null || outcome === 'missed') return missed;
    this.#order = new LiveOrder(pod.space);
    this.lost += lossesOf(before, spare_workers) + 1;
    return { ...missed, struck: true, guard: 'control', parts: controlParts(outcome, struck_ms, stall.ended_ms) };
  }

  /** Whoever heals by himself does so in time: in which. Null: it is found in place of that, or this system does not say how long threads wait for a processor. */
  #holdBound(kind: LiveKind, where: string, stall_ms: number, waits: Waits | null): number | null {
    const healed_ms = boundOf(kind);
    const waited_ms = waits === null ? null : waitedSince(waits);
    if (healed_ms === null || waited_ms === null) return null;
    const bound_ms = healed_ms + waited_ms;
    if (stall_ms <= bound_ms) return bound_ms;
    const what = `${where}: its calls waited ${seconds(stall_ms)} for tokens, and it heals within ${seconds(healed_ms)}; threads waited ${seconds(waited_ms)} for a processor`;
    this.violations.push({ verdict: 'lost progress', what });
    return bound_ms;
  }

  #give(worker: number, kind: WorkerKind, seed: number): void {
    const { pod, threads } = this.#around;
    this.#order.give(worker, kind, seed);
    // Wherever it sits: an idle one sleeps.
    for (let thread = CONTROL_THREAD + 1; thread <= CONTROL_THREAD + threads; thread++) pod.space.control.ring(thread);
  }

  /** What has come of the order; null: nothing, and nothing will. */
  async #withdraw(): Promise<Effect | null> {
    const { clock } = this.#around;
    const since_ms = clock.now_ms();
    let effect = this.#order.withdraw();
    // Who is put off its processor in the midst of it, or ended there.
    for (; effect === 'under way' && clock.now_ms() - since_ms < TAKEN_MS_MAX; effect = this.#order.withdraw()) await pause(1);
    return effect === 'under way' ? null : effect;
  }

  /** `server`: every second call goes there. */
  async #ask(asked: readonly ChaosCall[], server: AskedPod | null = null): Promise<Round> {
    const { pod, clock, undisturbed } = this.#around;
    const answers = await Promise.all(asked.map((call) => undisturbed.answerOf({ pod: { kernels: 'real' } }, call)));
    const heard = asked.map((): number[] => []);
    const running = asked.map((call, index) => {
      const there = server !== null && index % 2 === 1 ? server : pod;
      return playClient(timed(there, clock, heard[index] as number[]), call, answers[index] ?? [], STAYS);
    });
    return { heard, ended: Promise.all(running) };
  }

  /** Waits for the calls' ends, and judges them. False: broken off, or they do not end. */
  async #hear({ heard, ended }: Round, struck_ms: number, where: string, silence_ms_max = SILENCE_MS_MAX): Promise<boolean> {
    const { pod, clock, aborted, isAborted } = this.#around;
    const lastHeard_ms = (): number => Math.max(struck_ms, ...heard.map((times) => times.at(-1) ?? 0));
    const isSilent = (): boolean => clock.now_ms() - Math.min(lastHeard_ms() + silence_ms_max, struck_ms + ANSWERS_MS_MAX) > 0;
    while (!isAborted() && !isSilent() && (await isPending(ended))) await waitAtMost(Promise.race([ended, aborted]), LOOK_MS);
    if (isAborted()) return false;
    if (await isPending(ended)) {
      this.violations.push({
        verdict: 'lost progress',
        what: `${where}: its calls have not ended in ${seconds(clock.now_ms() - struck_ms)}, the last token came after ${seconds(lastHeard_ms() - struck_ms)}`,
      });
      return false;
    }
    const reports = await ended;
    this.calls += reports.length;
    this.tokens += reports.reduce((sum, report) => sum + report.tokens, 0);
    const isWrong = reports.some(({ code, wrong }) => code !== 'finished' || wrong.length > 0);
    const failure = isWrong ? await failureOf(pod) : null;
    if (failure !== null) this.violations.push({ verdict: 'crash', what: `${where}: the pod has ended: ${failure}` });
    for (const [call, report] of reports.entries())
      for (const what of brokenBy(report, failure !== null)) this.violations.push(at(`${where}, call ${call}`, what));
    return true;
  }

  /** Asks until there is an answer, at most so long. */
  async #until<Answer>(ask: () => Promise<Answer | null>, limit_ms = FOUND_MS_MAX): Promise<Answer | null> {
    const { clock, isAborted } = this.#around;
    for (const since_ms = clock.now_ms(); clock.now_ms() - since_ms < limit_ms && !isAborted(); await pause(POLL_MS)) {
      const answer = await ask();
      if (answer !== null) return answer;
    }
    return null;
  }
}

/** Its thread takes it up wherever it is; others wait for something to strike. */
const isHeldUp = (kind: LiveKind): boolean => (WORKER_KINDS as readonly LiveKind[]).includes(kind) || kind === 'zombie-writes';

const isPending = async (promise: Promise<unknown>): Promise<boolean> => (await Promise.race([promise.then(() => false), pause(0).then(() => true)])) === true;

const at = (where: string, { verdict, what }: Violation): Violation => ({ verdict, what: `${where}: ${what}` });

/** No fault of a live run explains another end than the right one. */
function brokenBy({ code, message, wrong }: CallReport, hasFailed: boolean): Violation[] {
  const found = wrong.map((what): Violation => ({ verdict: 'wrong result', what }));
  if (code === 'finished') return found;
  return [...found, { verdict: hasFailed || code === 'internal' || code === 'crash' ? 'crash' : 'wrong result', what: `it ended with ${code}: ${message}` }];
}

/** Why a pod has ended by itself; null: it has not. */
async function failureOf(pod: Pod): Promise<string | null> {
  try {
    await pod.stats();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Between two looks at a call that is struck amid, or the strike and what comes next. */
function longestGap(times: readonly number[], struck_ms: number): { readonly ms: number; readonly ended_ms: number } {
  let [longest, last] = [{ ms: 0, ended_ms: struck_ms }, struck_ms];
  for (const time of times) {
    if (time <= struck_ms) continue;
    if (time - last > longest.ms) longest = { ms: time - last, ended_ms: time };
    last = time;
  }
  return longest;
}

const longestStall = ({ heard }: Round, struck_ms: number): ReturnType<typeof longestGap> =>
  heard.map((times) => longestGap(times, struck_ms)).reduce((worst, gap) => (gap.ms > worst.ms ? gap : worst));

/** The pod, with the times at which its tokens come. */
const timed = (pod: AskedPod, clock: Clock, times: number[]): AskedPod => ({
  generate: (prompt, options) => {
    const generation = pod.generate(prompt, options);
    return {
      id: generation.id,
      [Symbol.asyncIterator]: async function* () {
        for await (const chunk of generation) {
          times.push(clock.now_ms());
          yield chunk;
        }
      },
    };
  },
});
