/**
 * Starts the threads of a live pod: the control thread, which starts all others.
 * @module
 */
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { speculativeOf } from '../flowserve/drafters/speculative-config.ts';
import { resolveModel } from '../model/registry.ts';
import { expertBalancingOf, jobExecutorsOf, type ResolvedPodOptions } from '../options/options.ts';
import { topologyOf } from '../options/topology-options.ts';
import { BeginningWatch, makeBeginning } from '../platform/beginning.ts';
import type { ControlHandle, ControlOptions, OnInspected } from '../platform/control-handle.ts';
import type { ControlRemote, Outcome } from '../platform/control-thread.ts';
import type { ProgressReport } from '../platform/weights.ts';
import type { ModelInfo } from '../pod.ts';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import { epoch_ms, monotonicClock } from '../runtime/clock.ts';
import { checkedMeanwhile } from '../runtime/event-loop.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { endThread, startThread, TERMINATION_IS_PROOF } from '../runtime/thread-start.ts';
import { PULSE_MS, type StartedThreads } from './pod-threads.ts';

/** What a control thread is given for the options of a pod. */
export function controlOptionsOf(resolved: ResolvedPodOptions, origin_ms: number): ControlOptions {
  const { model, npus: _npus, data_parallel_size: _size, clock: _clock, kernels: _kernels, seed: _seed, kv_blocks, memory_bytes, ...numbers } = resolved;
  return {
    ...numbers,
    topology: topologyOf(resolved),
    expert_balancing: expertBalancingOf(resolved),
    speculative: speculativeOf(resolved.speculative_config),
    job_executors: jobExecutorsOf(resolved),
    kv_blocks,
    memory_bytes,
    folder: resolveModel(model),
    origin_ms,
  };
}

export const modelInfoOf = ({ plan: { config }, vocab_size, parameters, has_chat_template }: ControlHandle): ModelInfo => ({
  name: config.name,
  architecture: config.architecture,
  context_length: config.maxPositions,
  vocab_size,
  parameters,
  created: Math.floor(epoch_ms() / 1000),
  has_chat_template,
});

/** What the control thread and the workers run instead of the shipped entries, and how long it may come no further before it is given up. */
export type StartTerms = { readonly control?: URL | undefined; readonly worker?: URL | undefined; readonly beginning_ms_max?: number | undefined };

/** On Deno, for who closes the pod: whoever begins takes about a second in all, and the longest of what it says nothing of is that its workers begin. */
const UNWANTED_MS_MAX = 10_000;

/** Who hears of it while it begins. `unwanted`: when nobody wants it any more. */
export type Beginner = {
  readonly onProgress?: ((report: ProgressReport) => void) | undefined;
  readonly onInspected?: OnInspected | undefined;
  readonly unwanted?: AbortSignal | undefined;
};

/** `hasEnded`: it writes nowhere any more. */
export type NotStarted = { readonly error: unknown; readonly hasEnded: boolean };

export async function startPodThreads(
  options: ControlOptions,
  { control, worker, beginning_ms_max }: StartTerms = {},
  { onProgress, onInspected, unwanted }: Beginner = {},
): Promise<StartedThreads | NotStarted> {
  const thread = startThread(control ?? entryPoint('../platform/control-thread'));
  const died = new Promise<never>((_, reject) => {
    thread.once('error', (error) =>
      reject(
        new MinipodError(
          isWorkerFailure(error) ? 'worker_failed' : 'internal',
          `the pod's control thread failed: ${error instanceof Error ? error.message : error}`,
          { cause: error },
        ),
      ),
    );
    thread.once('exit', (code) => reject(new MinipodError('closed', `the pod's control thread exited with code ${code}`)));
  });
  died.catch(() => {});
  const remote = Comlink.wrap<ControlRemote>(nodeEndpoint(thread));
  try {
    const progress = onProgress === undefined ? null : Comlink.proxy(onProgress);
    const inspected = onInspected === undefined ? undefined : Comlink.proxy(onInspected);
    const beginning = makeBeginning();
    const watch = new BeginningWatch(beginning, beginning_ms_max);
    const clock = monotonicClock(options.origin_ms);
    const created = remote.create({ ...options, beginning }, progress as never, inspected as never, worker?.href) as Promise<Outcome<ControlHandle>>;
    const check = (): void => {
      // On Deno (2.9.6) each worker that it has started would be there to the end of the process: who comes further is waited for, and closed.
      if (TERMINATION_IS_PROOF) unwanted?.throwIfAborted();
      watch.check(clock.now_ms(), unwanted?.aborted === true ? UNWANTED_MS_MAX : undefined);
    };
    const handle = unwrap(await checkedMeanwhile(Promise.race([created, died]), check, PULSE_MS));
    return { handle, thread, remote, died };
  } catch (error) {
    return { error, hasEnded: await endThread(thread) };
  }
}

/** What crosses a thread as its last error is no MinipodError any more, but keeps its code (in Node). */
const isWorkerFailure = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'worker_failed';

export function unwrap<Value>(outcome: Outcome<Value>): Value {
  if ('error' in outcome) throw fromErrorRecord(outcome.error);
  return outcome.value;
}
