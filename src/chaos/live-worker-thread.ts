/** Entry of a worker thread that breaks when it is told to, between two turns of its loop: with steps amid, and whatever they wait for. @module */
import { workerData } from 'node:worker_threads';
import { AddressSpace } from '../fabric/address-space.ts';
import { ControlPage } from '../fabric/control-page.ts';
import { NpuWorker } from '../flowserve/npu-worker.ts';
import { birthOf, birthOfController } from '../platform/births.ts';
import type { WorkerThreadData } from '../platform/npu-worker-thread.ts';
import { LiveOrder } from './live-order.ts';

const { acts: _, routing: __, ...data } = workerData as WorkerThreadData;
const order = new LiveOrder(new AddressSpace(data.memories, data.plan.memory.regions));

/** Its loop reads the stop word at each turn: nothing of the shipped worker is changed for this. */
const isStopped = ControlPage.prototype.isStopped;
ControlPage.prototype.isStopped = function (thread: number): boolean {
  switch (order.take(data.worker)) {
    case 'worker-dies':
      throw new Error('a live run killed it');
    case 'worker-blocks':
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      break;
    case 'worker-spins':
      for (;;);
  }
  return isStopped.call(this, thread);
};

const worker = new NpuWorker(data, { birthOf, birthOfController });
worker.start();
worker.run();
