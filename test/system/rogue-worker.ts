/**
 * A worker that goes rogue when it is told to: it reads neither its rings nor its stop word, and from the moment that it is given up it writes rubbish
 * wherever a worker may write. That is what a terminated thread is on Deno, and what any hung one might be.
 */
import { workerData } from 'node:worker_threads';
import { offsetOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { NpuWorker } from '../../src/flowserve/npu-worker.ts';
import { areasOfDie } from '../../src/flowserve/pod-plan.ts';
import type { WorkerData } from '../../src/flowserve/worker-data.ts';
import { birthOf, birthOfController } from '../../src/platform/births.ts';
import { PEER_BYTES } from '../../src/xccl/areas.ts';
import { RogueOrder } from './rogue-order.ts';

/** Begins as a worker does. */
function begin(data: WorkerData): void {
  const { plan, worker, seating, memories, layouts } = data;
  const thread = seating.threads[worker] as number;
  const space = new AddressSpace(memories, plan.memory.regions);
  const order = new RogueOrder(space);
  const epoch = space.control.epochOf(thread);
  const dies = layouts.map(({ base }) => plan.dies.findIndex((die) => die.base === base));

  /** Everything that this worker may write: its dies' regions, its fields in its peers' metadata, its ends of its rings. */
  function scribble(seed: number): void {
    for (const die of dies) {
      const { base, bytes } = plan.dies[die] as WorkerData['plan']['dies'][number];
      const words = space.wordsOf(base);
      for (let word = offsetOf(base) / 4; word < (offsetOf(base) + bytes) / 4; word += 61) words[word] = seed * word;
      for (let peer = 0; peer < plan.dies.length; peer++) {
        const { metadata } = areasOfDie(plan, peer);
        const field = (offsetOf(metadata) + die * PEER_BYTES) / 4;
        for (let word = 0; word < PEER_BYTES / 4; word++) if (!dies.includes(peer)) space.wordsOf(metadata)[field + word] = seed + word;
      }
    }
    const first = space.wordsOf(0);
    for (const { from, offset } of plan.rings) if (from === thread) Atomics.add(first, offset / 4, 8);
  }

  const isStopped = ControlPage.prototype.isStopped;
  ControlPage.prototype.isStopped = function (of: number): boolean {
    const duration_ms = order.take(thread);
    const until = performance.now() + duration_ms;
    for (let seed = 1; performance.now() < until; seed++) if (space.control.epochOf(thread) !== epoch) scribble(seed);
    return isStopped.call(this, of);
  };

  const rogue = new NpuWorker(data, { birthOf, birthOfController });
  rogue.start();
  rogue.run();
}

// None waits for a seat (src/platform/warm-thread.ts): such a thread ends at once, and successors are new ones.
if (!('rehearse' in workerData)) begin(workerData as WorkerData);
