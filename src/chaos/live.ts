/**
 * Breaks a live pod under load, by a seed: its worker threads die, block or spin, one at a time, and every token is held against what one NPU alone gives.
 * Real threads are not the same twice: the seed decides what is asked and what strikes whom, not what it meets.
 * @module
 */
import { createLivePod } from '../live-pod.ts';
import type { PodOptions } from '../options.ts';
import type { Pod } from '../pod.ts';
import type { Recovery } from '../protocol/recovery.ts';
import { deploy, parseTopology } from '../protocol/topology.ts';
import { type Clock, epoch_ms, monotonicClock } from '../runtime/clock.ts';
import { CONTROL_THREAD } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { type CallReport, playClient } from './client.ts';
import type { ChaosCall } from './fault-plan.ts';
import { type Verdict, type Violation, worst } from './invariants.ts';
import { LIVE_KINDS, type LiveKind, LiveOrder } from './live-order.ts';
import { leftovers } from './nothing-left.ts';
import { Undisturbed } from './undisturbed.ts';

export type LiveOptions = {
  readonly seed: number;
  readonly strikes: number;
  readonly topology: string;
  readonly workers: number;
  /** What the pod does where a worker is lost. */
  readonly recovery?: Recovery | undefined;
  /** Missing: all of them, in turn. */
  readonly kinds?: readonly LiveKind[] | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
};

/**
 * `stall_ms`: the longest that any caller waited for its next tokens after the strike. `parts`: of which it took so long until the loss was found, the end was proven,
 * peers had let go, the successor ran, and until those tokens came; null: nobody was lost, or it had no successor yet.
 */
export type Strike = { readonly kind: LiveKind; readonly struck: boolean; readonly stall_ms: number; readonly parts: StallParts | null };
export type StallParts = {
  readonly found: number;
  readonly end: number;
  readonly release: number;
  readonly start: number;
  readonly resume: number;
  readonly warm: boolean;
};
export type LiveReport = {
  readonly strikes: readonly Strike[];
  readonly calls: number;
  readonly tokens: number;
  /** Threads that were lost or given up, −1 where calls went wrong or the run was broken off; more than were struck: who was well was taken for one that hangs. */
  readonly losses: number;
  readonly verdict: Verdict;
  readonly violations: readonly Violation[];
};

const CALLS = 4;
const MAX_TOKENS = 48;
/** More restarts in their period are no recovery (platform/restart-intensity.ts: 5 in 10 s). */
const STRIKE_EVERY_MS = 2_200;
const TAKEN_MS_MAX = 5_000;
/** A silent one is found in some 300 ms where there is work, in 1.3 s where there is none, and later where its thread has to wait for a processor. */
const FOUND_MS_MAX = 60_000;
/** By then a thread waits for whoever is lost first (platform/warm-thread.ts), as in any pod that has stood for a while. */
const STANDS_MS = 3_000;
/** No token of any call, the recovery of what was struck amid them included. How long all of them take is a matter of what else the machine does. */
const SILENCE_MS_MAX = 60_000;
const ANSWERS_MS_MAX = 600_000;
const REST_MS_MAX = 10_000;
const POLL_MS = 10;
const LOOK_MS = 1_000;
const KEYS = 12;
const PLAN_STREAM = 11;
const STAYS = { leaves: -1, turns: 0 } as const;

/** Of an aborted run that still waits for its pod to close: who hangs does not hear of it. */
const CLOSE_MS_MAX = 500;

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

const pause = (ms: number): Promise<void> => waitAtMost(new Promise<never>(() => {}), ms);

/** @throws `invalid_request` for a pod that cannot be */
export async function runLive({ seed, strikes, topology, workers, recovery, kinds = LIVE_KINDS, signal, onProgress }: LiveOptions): Promise<LiveReport> {
  const clock = monotonicClock(epoch_ms());
  const random = new SeededRandom(seed, PLAN_STREAM);
  const spare_workers = 'Deno' in globalThis ? Math.min(8, strikes) : 0;
  const npus = deploy(parseTopology(topology)).npus.length;
  const options: PodOptions = { topology, workers: Math.min(workers, npus), spare_workers, ...(recovery !== undefined && { recovery }) };
  await using undisturbed = new Undisturbed();
  const pod = await createLivePod(options, entryPoint('../chaos/live-worker-thread'));
  const isAborted = (): boolean => signal?.aborted === true;
  await using closing = new AsyncDisposableStack();
  closing.defer(() => (isAborted() ? waitAtMost(pod.close(), CLOSE_MS_MAX) : pod.close()));
  const { promise: aborted, resolve: abort } = Promise.withResolvers<void>();
  signal?.addEventListener('abort', () => abort(), { once: true });
  const order = new LiveOrder(pod.space);
  const violations: Violation[] = [];
  const done: LiveReport['strikes'][number][] = [];
  let [calls, tokens] = [0, 0];
  await waitAtMost(aborted, STANDS_MS);
  for (let strike = 0; strike < strikes && !isAborted() && violations.length === 0; strike++) {
    const kind = kinds[strike % kinds.length] as LiveKind;
    const worker = random.below(options.workers as number);
    const after_tokens = 4 + random.below(MAX_TOKENS / 2);
    const asked = Array.from(
      { length: CALLS },
      (): ChaosCall => ({ ms: 0, key: random.below(KEYS), prompt_tokens: 24, stem_tokens: 0, max_tokens: MAX_TOKENS, n: 1 }),
    );
    const answers = await Promise.all(asked.map((call) => undisturbed.answerOf({ pod: { kernels: 'real' } }, call)));
    const heard = asked.map((): number[] => []);
    const running = asked.map((call, index) => playClient(timed(pod, clock, heard[index] as number[]), call, answers[index] ?? [], STAYS));
    const ended = Promise.all(running);
    const asked_ms = clock.now_ms();
    const isEarly = (): boolean => heard.some((times) => times.length < after_tokens) && clock.now_ms() - asked_ms < ANSWERS_MS_MAX;
    while (!isAborted() && isEarly() && (await isPending(ended))) await pause(1);
    const struck_ms = clock.now_ms();
    order.give(worker, kind);
    // Wherever it sits: an idle one sleeps.
    for (let thread = CONTROL_THREAD + 1; thread <= CONTROL_THREAD + workers + spare_workers; thread++) pod.space.control.ring(thread);
    while (!isAborted() && !order.isTaken && clock.now_ms() - struck_ms < TAKEN_MS_MAX) await pause(1);
    const lastHeard_ms = (): number => Math.max(struck_ms, ...heard.map((times) => times.at(-1) ?? 0));
    const isSilent = (): boolean => clock.now_ms() - Math.min(lastHeard_ms() + SILENCE_MS_MAX, struck_ms + ANSWERS_MS_MAX) > 0;
    while (!isAborted() && !isSilent() && (await isPending(ended))) await waitAtMost(Promise.race([ended, aborted]), LOOK_MS);
    if (isAborted()) break;
    const where = `strike ${strike}, ${kind} of worker ${worker}`;
    if (await isPending(ended)) {
      violations.push({
        verdict: 'lost progress',
        what: `${where}: its calls have not ended in ${seconds(clock.now_ms() - struck_ms)}, the last token came after ${seconds(lastHeard_ms() - struck_ms)}`,
      });
      break;
    }
    const reports = await ended;
    calls += reports.length;
    tokens += reports.reduce((sum, report) => sum + report.tokens, 0);
    const isWrong = reports.some(({ code, wrong }) => code !== 'finished' || wrong.length > 0);
    const failure = isWrong ? await failureOf(pod) : null;
    if (failure !== null) violations.push({ verdict: 'crash', what: `${where}: the pod has ended: ${failure}` });
    for (const [call, report] of reports.entries()) for (const what of brokenBy(report, failure !== null)) violations.push(at(`${where}, call ${call}`, what));
    const stall = heard.map((times) => longestGap(times, struck_ms)).reduce((worst, gap) => (gap.ms > worst.ms ? gap : worst));
    let parts: StallParts | null = null;
    // Who hangs and has nothing to do is found all the same, if not while these calls ran.
    for (const since_ms = clock.now_ms(); failure === null && parts === null && clock.now_ms() - since_ms < FOUND_MS_MAX && !isAborted(); await pause(POLL_MS))
      parts = await partsOf(pod, worker, struck_ms, stall.ended_ms, clock);
    // Deno ends no thread that runs, and bears its silence where no spare seat is left.
    if (failure === null && parts === null && !isAborted() && !('Deno' in globalThis))
      violations.push({ verdict: 'lost progress', what: `${where}: it had no successor within ${FOUND_MS_MAX / 1000} s` });
    done.push({ kind, struck: order.isTaken, stall_ms: stall.ms, parts });
    onProgress?.(strike + 1, strikes);
    // From loss to strike, not from call to call: the next one comes early in its calls, perhaps.
    await waitAtMost(aborted, Math.max(0, STRIKE_EVERY_MS - (clock.now_ms() - struck_ms - (parts?.found ?? 0))));
  }
  // One that has failed tells nothing more, and one that is broken off has calls amid.
  if (violations.length > 0 || isAborted()) return { strikes: done, calls, tokens, losses: -1, verdict: worst(violations), violations };
  violations.push(...(await leftAtRest(pod, clock)));
  const { fabric } = await pod.stats();
  // Spare seats begin with 2.
  const losses = fabric.threads.reduce((sum, { epoch }) => sum + epoch - 1, 0) - spare_workers;
  return { strikes: done, calls, tokens, losses, verdict: worst(violations), violations };
}

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

/** By the pod's own account of the recovery; its clock and this run's differ by when they began. */
async function partsOf(pod: Pod, worker: number, struck_ms: number, ended_ms: number, clock: Clock): Promise<StallParts | null> {
  const { recoveries, uptime_seconds } = await pod.stats();
  const offset_ms = clock.now_ms() - uptime_seconds * 1000;
  const recovery = recoveries.findLast((one) => one.worker === worker && one.lost_at_seconds * 1000 + offset_ms >= struck_ms - 1);
  if (recovery === undefined || recovery.end_ms === null || recovery.release_ms === null || recovery.start_ms === null) return null;
  const { end_ms: end, release_ms: release, start_ms: start, warm } = recovery;
  const found = recovery.lost_at_seconds * 1000 + offset_ms - struck_ms;
  return { found, end, release, start, resume: Math.max(0, ended_ms - struck_ms - found - end - release - start), warm };
}

/** The pod, with the times at which its tokens come. */
function timed(pod: Pod, clock: Clock, times: number[]): Pick<Pod, 'generate'> {
  return {
    generate: (prompt, options) => {
      const generation = pod.generate(prompt, options);
      return new Proxy(generation, {
        get: (target, name) => {
          if (name !== Symbol.asyncIterator) {
            const value = Reflect.get(target, name, target) as unknown;
            return typeof value === 'function' ? value.bind(target) : value;
          }
          return async function* () {
            for await (const chunk of target) {
              times.push(clock.now_ms());
              yield chunk;
            }
          };
        },
      });
    },
  };
}

/** What callers have heard the last of, workers may still have to let go of. */
async function leftAtRest(pod: Pod, clock: Clock): Promise<Violation[]> {
  const since_ms = clock.now_ms();
  for (;;) {
    const stats = await pod.stats();
    const left = [
      ...leftovers(stats).map((what): Violation => ({ verdict: 'wrong result', what: `something is left: ${what}` })),
      ...stats.unexpected_messages.map((what): Violation => ({ verdict: 'crash', what: `an actor was sent what it did not expect: ${what}` })),
    ];
    if (left.length === 0 || clock.now_ms() - since_ms > REST_MS_MAX) return left;
    await pause(POLL_MS);
  }
}
