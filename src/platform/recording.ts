/** What a pod's traces begin with, and who writes them. @module */

import { configOf } from '../flowserve/drafters/speculative.ts';
import type { OnRouted } from '../flowserve/experts/routed-steps.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { modelDigest } from '../model/model-digest.ts';
import { moeLayersOf } from '../model/moe-layers.ts';
import type { MinipodError } from '../protocol/errors.ts';
import { numericsOf } from '../protocol/numerics.ts';
import { formatTopology } from '../protocol/topology.ts';
import type { Hosting } from '../runtime/directory.ts';
import { type ActRing, makeActRing } from '../trace/act-log.ts';
import { LiveRecorder } from '../trace/live-recorder.ts';
import type { TraceDisk } from '../trace/output-file.ts';
import { Recorder } from '../trace/recorder.ts';
import { type RoutingHeader, routingHeader } from '../trace/routing-trace.ts';
import { promptsOf, type RunHeader, runHeader } from '../trace/run-header.ts';
import type { ControlOptions, OnInspected } from './control-handle.ts';

type Run = Pick<RunHeader, 'clock' | 'seed' | 'kernels'>;
type Recorded = { readonly checkpoint: Checkpoint; readonly plan: AnyPodPlan };

export function headerOf(
  { clock, seed, kernels }: Run,
  record_prompts: boolean,
  { checkpoint, plan: { config, hosting, npus, workers, options } }: Recorded,
): RunHeader {
  return runHeader({
    clock,
    seed,
    kernels,
    model: { name: checkpoint.config.name, digest: modelDigest(checkpoint) },
    ...(!record_prompts && { prompts: 'redacted' as const }),
    topology: formatTopology(hosting.deployment.topology),
    npus,
    workers,
    options: { ...optionsOf(hosting, options), ...(config.foreseeable !== undefined && { hash_foreseeable: config.foreseeable }) },
  });
}

function optionsOf(
  { job_executors, spare_workers, recovery, respawn, degraded, rehome_after_ms, role_switch, worker_of_npu, scaled }: Hosting,
  options: AnyPodPlan['options'],
): RunHeader['options'] {
  const { kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued } = options;
  const { dram_bytes_per_s, link_bytes_per_s, prefix_caching, prefix_sharing, async_scheduling, enforce_eager } = options;
  const { scheduling_policy, load_balancing, long_prompt_groups, long_prompt_tokens, schedule, micro_batches } = options;
  const { kv_lease_ms, kv_fabric, kv_transfer } = options;
  return {
    ...{ kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued },
    ...{ job_executors, npu_workers: [...worker_of_npu], spare_workers },
    ...(recovery !== undefined && { recovery }),
    ...(respawn !== undefined && { respawn }),
    ...(degraded !== undefined && { degraded }),
    ...(rehome_after_ms !== undefined && { rehome_after_ms }),
    ...(role_switch !== undefined && { role_switch }),
    ...(scaled !== undefined && { scaled }),
    ...(dram_bytes_per_s !== undefined && { dram_bytes_per_s }),
    ...(link_bytes_per_s !== undefined && { link_bytes_per_s }),
    ...{ prefix_caching, prefix_sharing, async_scheduling, enforce_eager },
    ...{ scheduling_policy, load_balancing, long_prompt_groups, long_prompt_tokens },
    ...(schedule !== undefined && { schedule }),
    ...(micro_batches !== undefined && { micro_batches }),
    ...(options.average_routing === true && { average_routing: true as const }),
    ...(options.expert_balancing !== undefined && { expert_balancing: options.expert_balancing }),
    ...(options.speculative !== undefined && { speculative_config: configOf(options.speculative) }),
    ...{ kv_lease_ms, kv_fabric, kv_transfer },
    ...numericsOf(options),
  };
}

export const routingHeaderOf = ({ clock, seed, kernels }: Run, { checkpoint, plan: { config, hosting, npus } }: Recorded): RoutingHeader =>
  routingHeader({
    clock,
    seed,
    kernels,
    model: { name: checkpoint.config.name, digest: modelDigest(checkpoint) },
    topology: formatTopology(hosting.deployment.topology),
    npus,
    layers: moeLayersOf({ layers: config.layers, moe: config.moe }),
    experts: config.moe.experts,
    top_k: config.moe.topK,
  });

/** The run goes on, or has ended well; whoever wanted its trace must hear that there is no whole one. */
export const warnRecordingEnded = (error: MinipodError): void => process.emitWarning(error.message, { type: 'RecordingEnded' });

const LIVE: Run = { clock: 'live', seed: null, kernels: 'real' };

/** All that is written or told of a live pod's run while it runs. */
export class Recordings {
  readonly #inspected: Int32Array | undefined;
  readonly #onInspected: OnInspected;
  readonly #acts: LiveRecorder | null;
  readonly #routing: LiveRecorder | null;

  private constructor(options: ControlOptions, onInspected: OnInspected, acts: LiveRecorder | null, routing: LiveRecorder | null) {
    this.#inspected = options.inspected;
    this.#onInspected = onInspected;
    this.#acts = acts;
    this.#routing = routing;
  }

  /** @throws `trace_not_written` */
  static async start(options: ControlOptions, recorded: Recorded, onInspected: OnInspected): Promise<Recordings> {
    const { record, record_routing, record_when_full: whenFull = 'wait', record_prompts } = options;
    const startOne = (path: string, header: object): Promise<LiveRecorder> =>
      LiveRecorder.create({ path, header, prompts: promptsOf(header), whenFull, onEnded: warnRecordingEnded });
    const acts = record === undefined ? null : await startOne(record, headerOf(LIVE, record_prompts, recorded));
    try {
      const routing = record_routing === undefined ? null : await startOne(record_routing, routingHeaderOf(LIVE, recorded));
      return new Recordings(options, onInspected, acts, routing);
    } catch (error) {
      await acts?.close();
      throw error;
    }
  }

  /** For a life of a thread: to whom its acts are shown. */
  newActRings(thread: number): ActRing[] {
    return [...(this.#acts === null ? [] : [this.#acts.newRing(thread)]), ...this.#inspectionRings(thread)];
  }

  /** For a life of a worker's: where it says what its gates chose; null: nobody records it. */
  newRoutingRing(thread: number): ActRing | null {
    return this.#routing?.newRing(thread) ?? null;
  }

  /** Of those who write: on Deno they may outlive this thread. */
  get states(): readonly Int32Array[] {
    return [this.#acts, this.#routing].flatMap((recorder) => (recorder === null ? [] : [recorder.state]));
  }

  /** Writes what is left, for so long at most. */
  async close(limit_ms?: number): Promise<void> {
    await Promise.all([this.#acts?.close(limit_ms), this.#routing?.close(limit_ms)]);
  }

  #inspectionRings(thread: number): ActRing[] {
    if (this.#inspected === undefined) return [];
    const ring = makeActRing(thread, this.#inspected, { whenFull: 'wait', prompts: 'recorded' });
    this.#onInspected(ring);
    return [ring];
  }
}

type VirtualRun = Run & { readonly record: string | undefined; readonly record_routing: string | undefined; readonly record_prompts: boolean };

/** The same of a virtual pod, which waits for the disk itself. `acts`, `routing`: null where nobody records them. */
export class VirtualRecordings {
  readonly acts: Recorder | null;
  readonly #routing: Recorder | null;

  /** @throws `trace_not_written` */
  constructor(run: VirtualRun, recorded: Recorded, disk?: TraceDisk) {
    const { record, record_routing, record_prompts } = run;
    const startOne = (path: string, header: object): Recorder =>
      new Recorder(path, header, promptsOf(header), disk?.onEnded ?? warnRecordingEnded, disk?.write);
    this.acts = record === undefined ? null : startOne(record, headerOf(run, record_prompts, recorded));
    try {
      this.#routing = record_routing === undefined ? null : startOne(record_routing, routingHeaderOf(run, recorded));
    } catch (error) {
      this.acts?.close();
      throw error;
    }
  }

  get onRouted(): OnRouted | undefined {
    const routing = this.#routing;
    return routing === null ? undefined : (words, bytes) => routing.append(new Uint8Array(words.buffer, 0, bytes));
  }

  close(): void {
    this.acts?.close();
    this.#routing?.close();
  }
}
