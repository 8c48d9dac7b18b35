/**
 * A worker that goes rogue when it is told to: it reads neither its rings nor its stop word, and from the moment that it is given up it writes rubbish
 * wherever a worker may write. That is what a terminated thread is on Deno, and what any hung one might be.
 */
import { workerData } from 'node:worker_threads';
import { zombieOf } from '../../src/chaos/live-zombie.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { NpuWorker } from '../../src/flowserve/npu-worker.ts';
import type { WorkerData } from '../../src/flowserve/worker-data.ts';
import { birthOf, birthOfController } from '../../src/platform/births.ts';
import { RogueOrder } from './rogue-order.ts';

/** Begins as a worker does. */
function begin(data: WorkerData): void {
  const { plan, worker, seating, memories } = data;
  const thread = seating.threads[worker] as number;
  const space = new AddressSpace(memories, plan.memory.regions);
  const order = new RogueOrder(space);
  const { scribble, isGivenUp } = zombieOf(data);

  const isStopped = ControlPage.prototype.isStopped;
  ControlPage.prototype.isStopped = function (of: number): boolean {
    const duration_ms = order.take(thread);
    const until = performance.now() + duration_ms;
    for (let seed = 1; performance.now() < until; seed++) if (isGivenUp()) scribble(seed);
    return isStopped.call(this, of);
  };

  const rogue = new NpuWorker(data, { birthOf, birthOfController });
  rogue.start();
  rogue.run();
}

// None waits for a seat (src/platform/warm-thread.ts): such a thread ends at once, and successors are new ones.
if (!('rehearse' in workerData)) begin(workerData as WorkerData);
