/** Entry of a worker thread. @module */
import { workerData } from 'node:worker_threads';
import { NpuWorker, type WorkerData } from '../flowserve/npu-worker.ts';
import { type ActRing, routedTo, witnessOf } from '../trace/act-log.ts';
import { birthOf, birthOfController } from './births.ts';

/** `acts`: to whom its acts are shown; `routing`: where what its gates choose is recorded, if it is. */
export type WorkerThreadData = WorkerData & { readonly acts: readonly ActRing[]; readonly routing: ActRing | null };

const { acts, routing, ...data } = workerData as WorkerThreadData;
const worker = new NpuWorker(
  data,
  { birthOf, birthOfController },
  (clock) => witnessOf(acts, clock),
  (clock) => routedTo(routing, clock),
);
worker.start();
worker.run();
