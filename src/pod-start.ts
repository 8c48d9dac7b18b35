/**
 * Starts the threads of a live pod: the control thread, which starts all others.
 * @module
 */
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { speculativeOf } from './flowserve/drafters/speculative-config.ts';
import { resolveModel } from './model/registry.ts';
import { expertBalancingOf, jobExecutorsOf, type ResolvedPodOptions } from './options.ts';
import type { ControlHandle, ControlOptions, OnInspected } from './platform/control-handle.ts';
import type { ControlRemote, Outcome } from './platform/control-thread.ts';
import type { ProgressReport } from './platform/weights.ts';
import type { ModelInfo } from './pod.ts';
import type { StartedThreads } from './pod-threads.ts';
import { fromErrorRecord, MinipodError } from './protocol/errors.ts';
import { epoch_ms } from './runtime/clock.ts';
import { entryPoint } from './runtime/thread-entry.ts';
import { startThread } from './runtime/thread-start.ts';
import { topologyOf } from './topology-options.ts';

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

/** What the control thread and the workers run instead of the shipped entries. */
export type PodEntries = { readonly control?: URL | undefined; readonly worker?: URL | undefined };

export async function startPodThreads(
  options: ControlOptions,
  entries: PodEntries = {},
  onProgress?: (report: ProgressReport) => void,
  onInspected?: OnInspected,
): Promise<StartedThreads> {
  const thread = startThread(entries.control ?? entryPoint('../platform/control-thread'));
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
    const created = remote.create(options, progress as never, inspected as never, entries.worker?.href) as Promise<Outcome<ControlHandle>>;
    const handle = unwrap(await Promise.race([created, died]));
    return { handle, thread, remote, died };
  } catch (error) {
    await thread.terminate();
    throw error;
  }
}

/** What crosses a thread as its last error is no MinipodError any more, but keeps its code (in Node). */
const isWorkerFailure = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'worker_failed';

export function unwrap<Value>(outcome: Outcome<Value>): Value {
  if ('error' in outcome) throw fromErrorRecord(outcome.error);
  return outcome.value;
}
