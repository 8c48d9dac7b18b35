/** Entry of a worker thread. @module */
import { workerData } from 'node:worker_threads';
import { NpuWorker, type WorkerData } from '../flowserve/npu-worker.ts';
import { type ActRing, witnessOf } from '../trace/act-log.ts';
import { birthOf, birthOfController } from './births.ts';

/** `acts`: to whom its acts are shown. */
export type WorkerThreadData = WorkerData & { readonly acts: readonly ActRing[] };

const { acts, ...data } = workerData as WorkerThreadData;
const worker = new NpuWorker(data, { birthOf, birthOfController }, (clock) => witnessOf(acts, clock));
worker.start();
worker.run();
