/**
 * `minipod fabric`: a pod under some load, and what its fabric does meanwhile. On a terminal once a second until Ctrl-C, in a pipe once at the end.
 * @module
 */
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { MinipodError, type Pod, type PodOptions, type PodStats } from '../index.ts';
import { fabricLines, type Look } from './fabric-tables.ts';
import { Interrupt } from './interrupt.ts';
import { openPod } from './open-pod.ts';
import { print, printJson } from './output.ts';
import { Screen } from './screen.ts';

/** The smallest pod that has links and exchanges of every kind. */
export const FABRIC_POD_DEFAULTS = { npus: 2, workers: 2 } as const;
const SECONDS_IN_A_PIPE = 2;
const REFRESH_MS = 1_000;
/** A worker that failed is started anew meanwhile. */
const RETRY_MS = 200;
const PROMPT = 'Once upon a time';
const TOKENS_MAX = 128;

export const fabricOptionsSchema = z.strictObject({
  /** Generations kept under way: one that ends is followed by another. */
  requests: z.int().min(0).max(4096).default(4),
  seconds: z.number().positive().max(86_400).optional(),
});

export type FabricCommand = {
  readonly pod: PodOptions;
  readonly load: z.output<typeof fabricOptionsSchema>;
  readonly json: boolean;
};

export async function fabric({ pod: given, load: { requests, seconds }, json }: FabricCommand): Promise<number> {
  const { npus = FABRIC_POD_DEFAULTS.npus, workers = Math.min(FABRIC_POD_DEFAULTS.workers, npus) } = given;
  const isLive = process.stdout.isTTY === true && !json;
  const limit_ms = 1000 * (seconds ?? (isLive ? Number.POSITIVE_INFINITY : SECONDS_IN_A_PIPE));
  await using pod = await openPod({ ...given, npus, workers });
  using interrupt = new Interrupt();
  const first = await pod.stats();
  await using load = new Load(pod, requests);
  const end_ms = performance.now() + limit_ms;
  const ended = AbortSignal.any([interrupt.signal, load.failed]);
  const screen = isLive ? new Screen('at the end or on a higher terminal') : null;
  let earlier = first;
  for (;;) {
    const left_ms = end_ms - performance.now();
    // The signal ends it early, which is no failure.
    await delay(Math.max(0, screen === null ? left_ms : Math.min(left_ms, REFRESH_MS)), undefined, { signal: ended }).catch(() => {});
    load.failed.throwIfAborted();
    if (ended.aborted || performance.now() >= end_ms) break;
    if (screen !== null) earlier = (await show(screen, pod, earlier, given.memory_bytes)) ?? earlier;
  }
  const now = await pod.stats();
  if (json) await printJson(now);
  else {
    screen?.clear();
    await print(`${fabricLines({ earlier: first, now, memory_bytes: given.memory_bytes }).join('\n')}\n`);
  }
  return interrupt.exit_code;
}

/** So many generations at any time, until it is disposed of. */
class Load implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #failed = new AbortController();
  readonly #askers: Promise<void>[];

  constructor(pod: Pod, requests: number) {
    this.#askers = Array.from({ length: requests }, (_, asker) => this.#ask(pod, asker).catch((error) => this.#failed.abort(error)));
  }

  /** Aborted, with the error as its reason, when a generation fails and would fail again. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  async #ask(pod: Pod, seed: number): Promise<void> {
    const { signal } = this.#stop;
    const max_tokens = Math.min(TOKENS_MAX, Math.floor(pod.model.context_length / 2));
    while (!signal.aborted) {
      try {
        await pod.complete(PROMPT, { max_tokens, ignore_eos: true, seed, signal });
      } catch (error) {
        if (signal.aborted) return;
        // What a dying worker does to links and regions is what one came to see.
        if (!(error instanceof MinipodError) || error.code !== 'worker_failed') throw error;
        await delay(RETRY_MS, undefined, { signal }).catch(() => {});
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#askers);
  }
}

/** Paints what the pod says now and gives that; or says that some worker is silent, and gives null. */
async function show(screen: Screen, pod: Pod, earlier: PodStats, memory_bytes: number | undefined): Promise<PodStats | null> {
  try {
    const now = await pod.stats();
    await screen.paint(fabricLines({ earlier, now, memory_bytes } satisfies Look));
    return now;
  } catch (error) {
    if (!(error instanceof MinipodError) || error.code !== 'deadline_exceeded') throw error;
    await screen.paint([error.message]);
    return null;
  }
}
