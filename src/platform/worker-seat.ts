/**
 * With what a worker thread begins: at once, with what it was started with; or, where it is to be warm (warm-thread.ts), after a rehearsal, when it is told.
 * @module
 */
import { parentPort, workerData } from 'node:worker_threads';
import { AddressSpace } from '../fabric/address-space.ts';
import { allocateSegments } from '../fabric/memory-plan.ts';
import { NpuWorker } from '../flowserve/npu-worker.ts';
import type { WorkerData } from '../flowserve/worker-data.ts';
import type { StepSample } from '../protocol/balancing.ts';
import type { ActRing } from '../trace/act-log.ts';
import { birthOf, birthOfController } from './births.ts';

/** `acts`: to whom its acts are shown; `routing`: where what its gates choose is recorded, if it is. */
export type WorkerThreadData = WorkerData & { readonly acts: readonly ActRing[]; readonly routing: ActRing | null };
/** Some worker's, who has that seat: all are alike. */
export type WarmThreadData = { readonly rehearse: WorkerThreadData };

/** The first takes 50 ms, the second 5, the fourth 3: by then a beginning is compiled as far as a thread that waits needs it. */
const REHEARSALS = 4;

/** `samples`: what steps took in a rehearsal; null: there was none. */
export function whenSeated(begin: (data: WorkerThreadData, samples: readonly StepSample[] | null) => void): void {
  const given = workerData as WorkerThreadData | WarmThreadData;
  if (!('rehearse' in given)) {
    begin(given, null);
    return;
  }
  const samples = rehearse(given.rehearse);
  parentPort?.once('message', (data: WorkerThreadData) => begin(data, samples));
}

/** The worker's first steps, in a pod of which there is nothing else: no weights, so that its pages are never touched, and nobody who hears of it. */
function rehearse({ acts: _, routing: __, ...data }: WorkerThreadData): readonly StepSample[] | null {
  const { plan } = data;
  const memories = allocateSegments(plan.memory);
  const { base, bytes } = new AddressSpace(memories, plan.memory.regions).region('pod', 'vocabulary');
  const copied = (of: readonly WebAssembly.Memory[]): Uint8Array => new AddressSpace(of, plan.memory.regions).bytesAt(base, bytes);
  copied(memories).set(copied(data.memories));
  let samples: readonly StepSample[] | null = null;
  for (let turn = 0; turn < REHEARSALS; turn++) {
    const worker: NpuWorker = new NpuWorker({ ...data, memories }, { birthOf, birthOfController }, undefined, undefined, samples);
    worker.start();
    samples = worker.samples;
  }
  return samples;
}
