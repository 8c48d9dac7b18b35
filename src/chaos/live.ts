/**
 * Breaks a live pod under load, by a seed: its threads die, block or spin, its memory and its fabric go bad, one at a time, and every token is held against what
 * one NPU alone gives. Real threads are not the same twice: the seed decides what is asked and what strikes whom, not what it meets.
 * @module
 */
import { serve } from '../api/index.ts';
import type { PodOptions } from '../options/options.ts';
import { createLivePod } from '../pod/live-pod.ts';
import type { Pod } from '../pod.ts';
import type { Recovery } from '../protocol/recovery.ts';
import { type Clock, epoch_ms, monotonicClock } from '../runtime/clock.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import type { ChaosCall } from './fault-plan.ts';
import { type Verdict, type Violation, worst } from './invariants.ts';
import { withoutWarnings } from './live-control.ts';
import { lossesOf } from './live-findings.ts';
import { overHttp } from './live-http.ts';
import { isOfControl, type LiveKind, WORKER_KINDS } from './live-kinds.ts';
import { LivePlaces } from './live-places.ts';
import { LiveStrikes, type Strike } from './live-strikes.ts';
import { leftovers } from './nothing-left.ts';
import { Undisturbed } from './undisturbed.ts';

export type LiveOptions = {
  readonly seed: number;
  readonly strikes: number;
  readonly topology: string;
  /** Threads that host its NPUs, at most one for each. Missing: 2, or 1 for one NPU. */
  readonly workers?: number | undefined;
  /** What the pod does where a worker is lost. */
  readonly recovery?: Recovery | undefined;
  /** What KV travels by between its task executors, and in how many pieces: as of any pod. */
  readonly kv_fabric?: PodOptions['kv_fabric'];
  readonly kv_transfer?: PodOptions['kv_transfer'];
  /** In turn; `all`: that can strike this pod. Missing: those that end a worker's thread (WORKER_KINDS). */
  readonly kinds?: readonly LiveKind[] | 'all' | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
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
/** By then a thread waits for whoever is lost first (platform/warm-thread.ts), as in any pod that has stood for a while. */
const STANDS_MS = 3_000;
const REST_MS_MAX = 10_000;
const POLL_MS = 10;
const KEYS = 12;
const PLAN_STREAM = 11;
/** What a strike draws for itself is none of the calls' business. */
const STRIKE_STREAM = 13;
const SEED_MAX = 2 ** 31;
/** Of one that takes no effect, since what it struck was read no more, or nothing came by that it could strike. */
const TRIES = 3;
/** The pod checks its weights with each step then: else tokens may come of what nobody has found yet. */
const ON_WEIGHTS: readonly LiveKind[] = ['weights-bit-flip', 'stray-write'];

/** Of an aborted run that still waits for its pod to close: who hangs does not hear of it. */
const CLOSE_MS_MAX = 500;

const pause = (ms: number): Promise<void> => waitAtMost(new Promise<never>(() => {}), ms);

/** @throws `invalid_request` for a pod that cannot be, such as one of more workers than NPUs, or a kind that can strike nothing in it */
export async function runLive({
  seed,
  strikes,
  topology,
  workers,
  recovery,
  kv_fabric,
  kv_transfer,
  kinds: asked_kinds = WORKER_KINDS,
  signal,
  onProgress,
}: LiveOptions): Promise<LiveReport> {
  const places = new LivePlaces(topology, workers);
  const kinds = asked_kinds === 'all' ? places.kinds : asked_kinds;
  places.check(kinds);
  const clock = monotonicClock(epoch_ms());
  const random = new SeededRandom(seed, PLAN_STREAM);
  const strikeRandom = new SeededRandom(seed, STRIKE_STREAM);
  const spare_workers = 'Deno' in globalThis ? Math.min(8, strikes) : 0;
  const options: PodOptions = {
    ...{ topology, workers: places.workers, spare_workers },
    ...(recovery !== undefined && { recovery }),
    ...(kv_fabric !== undefined && { kv_fabric }),
    ...(kv_transfer !== undefined && { kv_transfer }),
    ...(kinds.some((kind) => ON_WEIGHTS.includes(kind)) && { weight_checks: 'each-step' }),
  };
  using _quiet = withoutWarnings();
  await using undisturbed = new Undisturbed();
  const pod = await createLivePod(options, entryPoint('../chaos/live-worker-thread'), { entry: entryPoint('../chaos/live-control-thread') });
  const isAborted = (): boolean => signal?.aborted === true;
  await using closing = new AsyncDisposableStack();
  closing.defer(() => (isAborted() ? waitAtMost(pod.close(), CLOSE_MS_MAX) : pod.close()));
  const { promise: aborted, resolve: abort } = Promise.withResolvers<void>();
  signal?.addEventListener('abort', () => abort(), { once: true });
  const server = kinds.some(isOfControl) ? await serve({ pod, port: 0 }) : null;
  if (server !== null) closing.defer(async () => void (await server.close()));
  const run = new LiveStrikes({
    ...{ pod, clock, undisturbed, threads: places.workers + spare_workers, spare_workers, aborted, isAborted },
    server: server === null ? null : overHttp(server.url, pod.model.name),
  });
  const done: Strike[] = [];
  await waitAtMost(aborted, STANDS_MS);
  for (let strike = 0; strike < strikes && !isAborted() && run.violations.length === 0; strike++) {
    const kind = kinds[strike % kinds.length] as LiveKind;
    const struckWorkers = places.workersFor(kind);
    // The same draw for all kinds: who is struck next is no matter of who could be struck before.
    const worker = struckWorkers[random.below(places.workers) % struckWorkers.length] as number;
    const after_tokens = 4 + random.below(MAX_TOKENS / 2);
    const asked = Array.from(
      { length: CALLS },
      (): ChaosCall => ({ ms: 0, key: random.below(KEYS), prompt_tokens: 24, stem_tokens: 0, max_tokens: MAX_TOKENS, n: 1 }),
    );
    const strikeSeed = strikeRandom.below(SEED_MAX);
    let struck: Strike | null = null;
    for (let turn = 0; turn < TRIES && struck?.struck !== true && run.violations.length === 0; turn++) {
      await waitAtMost(aborted, run.waits_ms(kind));
      if (isAborted()) break;
      struck = await run.strike({ number: strike, kind, worker, after_tokens, asked, seed: (strikeSeed + turn) % SEED_MAX });
      if (struck === null) break;
    }
    if (struck === null) break;
    done.push(struck);
    onProgress?.(strike + 1, strikes);
    // A pod that has just begun.
    if (struck.guard === 'control') await waitAtMost(aborted, STANDS_MS);
    // From loss to strike, not from call to call: the next one comes early in its calls, perhaps.
    if (struck.parts !== null && strike + 1 < strikes)
      await waitAtMost(aborted, Math.max(0, STRIKE_EVERY_MS - (clock.now_ms() - struck.struck_ms - struck.parts.found)));
  }
  const { violations, calls, tokens } = run;
  // One that has failed tells nothing more, and one that is broken off has calls amid.
  if (violations.length > 0 || isAborted()) return { strikes: done, calls, tokens, losses: -1, verdict: worst(violations), violations };
  violations.push(...(await leftAtRest(run, pod, clock)));
  const losses = run.lost + lossesOf(await pod.stats(), spare_workers);
  return { strikes: done, calls, tokens, losses, verdict: worst(violations), violations };
}

/** What callers have heard the last of, workers may still have to let go of. */
async function leftAtRest(run: LiveStrikes, pod: Pod, clock: Clock): Promise<Violation[]> {
  const since_ms = clock.now_ms();
  for (;;) {
    const stats = await pod.stats();
    const left = [
      ...leftovers(stats).map((what): Violation => ({ verdict: 'wrong result', what: `something is left: ${what}` })),
      ...run.unexplained(stats),
      ...stats.unexpected_messages.map((what): Violation => ({ verdict: 'crash', what: `an actor was sent what it did not expect: ${what}` })),
    ];
    if (left.length === 0 || clock.now_ms() - since_ms > REST_MS_MAX) return left;
    await pause(POLL_MS);
  }
}
