/** Entry of a worker thread. @module */
import { workerData } from 'node:worker_threads';
import { NpuWorker, type WorkerData } from '../flowserve/npu-worker.ts';
import { ActLog, type ActRing } from '../trace/act-log.ts';

/** `acts`: where its acts are recorded, if they are. */
export type WorkerThreadData = WorkerData & { readonly acts: ActRing | null };

const { acts, ...data } = workerData as WorkerThreadData;
const worker = new NpuWorker(data, acts === null ? undefined : (clock) => new ActLog(acts, clock).witness);
worker.start();
worker.run();
