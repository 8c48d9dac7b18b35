/** What a worker thread is started with. @module */
import type { Worker } from 'node:worker_threads';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { type Directory, type Seat, threadsOf } from '../runtime/directory.ts';
import { startThread } from '../runtime/thread-start.ts';
import type { NetworkCardKeeper } from './network-card.ts';
import type { Recordings } from './recording.ts';
import type { WarmThreadData, WorkerThreadData } from './worker-seat.ts';

const YOUNG_GENERATION_MB = 64;

export type WorkerStart = {
  readonly plan: PodPlan;
  readonly space: AddressSpace;
  readonly module: WebAssembly.Module;
  readonly folder: string;
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

/** Beside where its acts are shown. */
function seatData({
  plan,
  space,
  module,
  folder,
  origin_ms,
  directory,
  network,
  worker,
  seat,
  layouts,
  lost,
}: WorkerStart): Omit<WorkerThreadData, 'acts' | 'routing' | 'isTraced'> {
  const { control, memories } = space;
  return {
    plan,
    ...{ worker, life: control.lifeOf(worker) },
    seating: directory.seating,
    ...{ lost, epochs: epochsOf(plan, space) },
    die_epochs: seat.dies.map((die) => control.epochOfDie(die)),
    layouts,
    kv_lines: network.linesOf(seat.thread),
    ...{ memories, module, folder, origin_ms },
    protocol: PROTOCOL_HASH,
  };
}

/** `warm`: a thread that waits for a seat; null: a new one is started. */
export function startWorkerThread(entry: URL, start: WorkerStart, warm: Worker | null = null): Worker {
  const { recordings, seat } = start;
  const acts = recordings.newActRings(seat.thread);
  const data: WorkerThreadData = { ...seatData(start), isTraced: acts.length > 0, acts, routing: recordings.newRoutingRing(seat.thread) };
  if (warm === null) return newThread(entry, data);
  warm.postMessage(data);
  return warm;
}

/** To wait for a seat. */
export const startWarmThread = (entry: URL, start: WorkerStart): Worker =>
  newThread(entry, { rehearse: { ...seatData(start), isTraced: false, acts: [], routing: null } });

// A step leaves some kilobytes of short-lived records; a larger nursery collects them seldom, and one worker's pause stalls its peers.
const newThread = (entry: URL, data: WorkerThreadData | WarmThreadData): Worker =>
  startThread(entry, { workerData: data, resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB } });
