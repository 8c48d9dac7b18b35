/** Entry of a worker thread that breaks when it is told to, between two turns of its loop: with steps amid, and whatever they wait for. @module */
import { AddressSpace } from '../fabric/address-space.ts';
import { ControlPage } from '../fabric/control-page.ts';
import { NpuWorker } from '../flowserve/npu-worker.ts';
import { birthOf, birthOfController } from '../platform/births.ts';
import { whenSeated } from '../platform/worker-seat.ts';
import { type LiveKind, LiveOrder } from './live-order.ts';

/** Its loop reads the stop word at each turn: nothing of the shipped worker is changed for this. */
const isStopped = ControlPage.prototype.isStopped;

whenSeated(({ acts: _, routing: __, ...data }, samples) => {
  const order = new LiveOrder(new AddressSpace(data.memories, data.plan.memory.regions));
  ControlPage.prototype.isStopped = function (thread: number): boolean {
    suffer(order.take(data.worker));
    return isStopped.call(this, thread);
  };
  const worker = new NpuWorker(data, { birthOf, birthOfController }, undefined, undefined, samples);
  worker.start();
  worker.run();
});

function suffer(kind: LiveKind | null): void {
  switch (kind) {
    case 'worker-dies':
      throw new Error('a live run killed it');
    case 'worker-blocks':
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      break;
    case 'worker-spins':
      for (;;);
  }
}
