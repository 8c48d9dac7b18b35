/**
 * What a thread that was given up may still do to a live pod's memory: rubbish in its dies' regions, in its fields of peers' metadata, and in its ends of its rings.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { areasOfDie } from '../flowserve/pod-plan.ts';
import type { WorkerData } from '../flowserve/worker-data.ts';
import { PEER_BYTES } from '../xccl/areas.ts';

/** Every so manieth word of a region: all of it would take longer than the thread has. */
const STRIDE_WORDS = 61;

/** `scribble(seed)` writes once everywhere; `isGivenUp`: nothing that the thread writes counts any more. */
type Zombie = { readonly scribble: (seed: number) => void; readonly isGivenUp: () => boolean };

export function zombieOf({ plan, worker, seating, memories, layouts }: WorkerData): Zombie {
  const thread = seating.threads[worker] as number;
  const space = new AddressSpace(memories, plan.memory.regions);
  const epoch = space.control.epochOf(thread);
  const dies = layouts.map(({ base }) => plan.dies.findIndex((die) => die.base === base));
  const scribble = (seed: number): void => {
    for (const die of dies) {
      const { base, bytes } = plan.dies[die] as WorkerData['plan']['dies'][number];
      const words = space.wordsOf(base);
      for (let word = offsetOf(base) / 4; word < (offsetOf(base) + bytes) / 4; word += STRIDE_WORDS) words[word] = seed * word;
      for (let peer = 0; peer < plan.dies.length; peer++) {
        if (dies.includes(peer)) continue;
        const { metadata } = areasOfDie(plan, peer);
        const field = (offsetOf(metadata) + die * PEER_BYTES) / 4;
        for (let word = 0; word < PEER_BYTES / 4; word++) space.wordsOf(metadata)[field + word] = seed + word;
      }
    }
    const first = space.wordsOf(0);
    for (const { from, offset } of plan.rings) if (from === thread) Atomics.add(first, offset / 4, 8);
  };
  return { scribble, isGivenUp: () => space.control.epochOf(thread) !== epoch };
}
