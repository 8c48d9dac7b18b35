/** What a worker thread is started with. @module */
import { Worker } from 'node:worker_threads';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { type Directory, type Seat, threadsOf } from '../runtime/directory.ts';
import { threadOptions } from '../runtime/thread-entry.ts';
import type { NetworkCardKeeper } from './network-card.ts';
import type { WorkerThreadData } from './npu-worker-thread.ts';
import type { Recordings } from './recording.ts';

const YOUNG_GENERATION_MB = 64;

export type WorkerStart = {
  readonly plan: PodPlan;
  readonly space: AddressSpace;
  readonly module: WebAssembly.Module;
  readonly origin_ms: number;
  readonly directory: Directory;
  readonly network: Pick<NetworkCardKeeper, 'linesOf'>;
  readonly recordings: Pick<Recordings, 'newActRings' | 'newRoutingRing'>;
  readonly worker: number;
  readonly seat: Seat;
  readonly layouts: PodPlan['layouts'];
  readonly lost: readonly number[];
};

/** By thread: its epoch now. */
export const epochsOf = ({ hosting }: PodPlan, { control }: AddressSpace): number[] =>
  Array.from({ length: threadsOf(hosting) }, (_, thread) => control.epochOf(thread));

export function startWorkerThread(
  entry: URL,
  { plan, space, module, origin_ms, directory, network, recordings, worker, seat, layouts, lost }: WorkerStart,
): Worker {
  const { control, memories } = space;
  const acts = recordings.newActRings(seat.thread);
  const workerData: WorkerThreadData = {
    plan,
    ...{ worker, life: control.lifeOf(worker) },
    seating: directory.seating,
    ...{ lost, epochs: epochsOf(plan, space) },
    die_epochs: seat.dies.map((die) => control.epochOfDie(die)),
    layouts,
    kv_lines: network.linesOf(seat.thread),
    ...{ memories, module, origin_ms },
    protocol: PROTOCOL_HASH,
    isTraced: acts.length > 0,
    ...{ acts, routing: recordings.newRoutingRing(seat.thread) },
  };
  // A step leaves some kilobytes of short-lived records; a larger nursery collects them seldom, and one worker's pause stalls its peers.
  return new Worker(entry, { ...threadOptions(), workerData, resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB } });
}
