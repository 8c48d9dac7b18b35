/**
 * The pod before it exists: what memory it needs, what lies where, which threads talk. A plain value that every thread is given.
 * @module
 */
import { totalmem } from 'node:os';
import { offsetOf } from '../fabric/address.ts';
import { planRings, type RingPlace } from '../fabric/links.ts';
import { type MemoryPlan, planMemory } from '../fabric/memory-plan.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { MinipodError } from '../protocol/errors.ts';
import { CALLER_THREAD, CONTROL_THREAD, threadOfWorker } from '../runtime/directory.ts';
import { type LayoutOptions, layoutNpu, type NpuLayout } from './npu-layout.ts';

export type PlanOptions = Omit<LayoutOptions, 'kv_blocks'> & {
  readonly workers: number;
  readonly kv_blocks: number | undefined;
  readonly segment_bytes: number;
  readonly memory_bytes: number | undefined;
};

export type PodPlan = {
  readonly config: ModelConfig;
  readonly npus: number;
  readonly workers: number;
  readonly memory: MemoryPlan;
  readonly rings: readonly RingPlace[];
  readonly layouts: readonly NpuLayout[];
  readonly options: LayoutOptions;
};

/** Requests of full length that an NPU's KV blocks hold if nothing else is said. */
const FULL_REQUESTS = 8;
/** What one text token takes at most on a ring: text of a few bytes, then the id. */
const BYTES_PER_PROMPT_TOKEN = 16;
const CALLER_RING_BYTES_MIN = 1 << 20;
const PEER_RING_BYTES = 1 << 16;

/** @throws `invalid_request` for options that contradict one another, `out_of_memory` with the sum shown. */
export function planPod(checkpoint: Checkpoint, options: PlanOptions): PodPlan {
  const { config } = checkpoint;
  const { npus, workers } = options;
  if (workers > npus)
    throw new MinipodError('invalid_request', `workers: ${workers} threads for ${npus} NPUs; an NPU lives on one worker, so use at most ${npus}`, {
      param: 'workers',
    });
  if (npus > config.moe.experts)
    throw new MinipodError('invalid_request', `npus: ${npus} NPUs for ${config.moe.experts} experts a layer; each NPU owns at least one`, { param: 'npus' });
  const blocksOfRequest = Math.ceil(config.maxPositions / options.kv_block_size);
  const layoutOptions: LayoutOptions = {
    npus,
    kv_blocks: options.kv_blocks ?? FULL_REQUESTS * blocksOfRequest,
    kv_block_size: options.kv_block_size,
    max_batch_tokens: options.max_batch_tokens,
    max_batch_requests: options.max_batch_requests,
  };
  const dtypeOf = (name: string) => checkpoint.tensors.get(name)?.dtype ?? 'BF16';
  const wide = powerOfTwo(Math.max(CALLER_RING_BYTES_MIN, 2 * BYTES_PER_PROMPT_TOKEN * config.maxPositions));
  const planned = planRings(ringPairs(workers, wide), 0);
  const sizes = Array.from({ length: npus }, (_, npu) => layoutNpu(config, dtypeOf, layoutOptions, npu, 0).bytes);
  const memory = planMemory(
    [{ owner: 'pod', kind: 'rings', bytes: planned.bytes }, ...sizes.map((bytes, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes }))],
    options.segment_bytes,
    options.memory_bytes ?? Math.floor(totalmem() * 0.75),
  );
  const [rings, ...regions] = memory.regions.filter(({ kind }) => kind !== 'control');
  const ringsAt = offsetOf(rings?.base ?? 0);
  return {
    config,
    npus,
    workers,
    memory,
    rings: planned.rings.map((ring) => ({ ...ring, offset: ring.offset + ringsAt })),
    layouts: regions.map(({ base, bytes }, npu) => layoutNpu(config, dtypeOf, layoutOptions, npu, base, bytes)),
    options: layoutOptions,
  };
}

/** Caller and control; control and each worker; each worker and each other. */
function ringPairs(workers: number, wide: number): { from: number; to: number; capacity: number }[] {
  const threads = Array.from({ length: workers }, (_, worker) => threadOfWorker(worker));
  const both = (a: number, b: number, capacity: number) => [
    { from: a, to: b, capacity },
    { from: b, to: a, capacity },
  ];
  return [
    ...both(CALLER_THREAD, CONTROL_THREAD, wide),
    ...threads.flatMap((thread) => both(CONTROL_THREAD, thread, wide)),
    ...threads.flatMap((thread, index) => threads.slice(index + 1).flatMap((peer) => both(thread, peer, PEER_RING_BYTES))),
  ];
}

const powerOfTwo = (bytes: number): number => 2 ** Math.ceil(Math.log2(bytes));
