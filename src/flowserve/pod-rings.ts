/**
 * Which threads of a pod talk to each other, and how much room their rings have.
 * @module
 */
import type { RingPair } from '../fabric/links.ts';
import { CALLER_THREAD, CONTROL_THREAD, type Hosting, seatsOf } from '../runtime/directory.ts';

/** What one text token takes at most on a ring: text of a few bytes, then the id. */
const BYTES_PER_PROMPT_TOKEN = 16;
const CALLER_RING_BYTES_MIN = 1 << 20;
const PEER_RING_BYTES = 1 << 16;
/** Some seconds of text while the caller's thread does something else. */
const OUTPUT_RING_BYTES = 1 << 18;
const UNUSED_RING_BYTES = 1 << 12;

/** Caller and control; control and each worker; each worker and each other; text from each worker to the caller; the spare seats too. `positions`: of a prompt, at most. */
export function ringPairs(hosting: Hosting, positions: number): RingPair[] {
  const wide = powerOfTwo(Math.max(CALLER_RING_BYTES_MIN, 2 * BYTES_PER_PROMPT_TOKEN * positions));
  const threads = seatsOf(hosting).map(({ thread }) => thread);
  const both = (a: number, b: number, capacity: number) => [
    { from: a, to: b, capacity },
    { from: b, to: a, capacity },
  ];
  return [
    ...both(CALLER_THREAD, CONTROL_THREAD, wide),
    ...threads.flatMap((thread) => both(CONTROL_THREAD, thread, wide)),
    ...threads.flatMap((thread) => [
      { from: thread, to: CALLER_THREAD, capacity: OUTPUT_RING_BYTES },
      // Nothing travels there: whoever has one end has both.
      { from: CALLER_THREAD, to: thread, capacity: UNUSED_RING_BYTES, slab_bytes: 0 },
    ]),
    ...threads.flatMap((thread, index) => threads.slice(index + 1).flatMap((peer) => both(thread, peer, PEER_RING_BYTES))),
  ];
}

const powerOfTwo = (bytes: number): number => 2 ** Math.ceil(Math.log2(bytes));
