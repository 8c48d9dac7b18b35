/** Entry of a worker thread. @module */
import { workerData } from 'node:worker_threads';
import { NpuWorker, type WorkerData } from './npu-worker.ts';

const worker = new NpuWorker(workerData as WorkerData);
worker.start();
worker.run();
