/** What two threads of which one dies again and again send to each other: each frame says in whose life it was sent, and its place in it. */
import { Buffer } from 'node:buffer';
import type { Lane } from '../../src/fabric/link-counters.ts';
import type { Links, RingPlace } from '../../src/fabric/links.ts';
import { FRAME_KIND, type FrameAddress, type RingConsumer } from '../../src/fabric/ring.ts';
import { payloadOf } from './two-threads.ts';

export type KillData = {
  /** The first holds the rings. */
  readonly memories: readonly [WebAssembly.Memory, ...WebAssembly.Memory[]];
  readonly rings: readonly RingPlace[];
  readonly controlAt: number;
  readonly errorsAt: number;
  readonly life: number;
  readonly epoch: number;
};

const LANES: readonly Lane[] = ['control', 'data'];
const WAITING_MAX = 16;

/** Mostly small, now and then larger than the slab. */
const sizeOf = (sequence: number): number => (sequence % 97 === 0 ? 9_000 : sequence % 11 === 0 ? 700 : (sequence * 37) % 120);

const frameOfLife = (life: number, lane: number, sequence: number): FrameAddress => ({
  kind: FRAME_KIND.message,
  source: sequence,
  destination: life,
  roles: lane,
});

/** Is it the next frame of this life on its lane, and whole? Counts it in `received`. */
export function checkFrame(ring: RingConsumer, life: number, received: number[]): boolean {
  const { source, destination, roles, bytes } = ring.header;
  const expected = received[roles] ?? -1;
  received[roles] = expected + 1;
  return destination === life && source === expected && bytes === sizeOf(expected) && Buffer.compare(ring.payload(), payloadOf(expected, bytes)) === 0;
}

/** Sends the next frame of this life on each lane that is not full. Counts it in `sent`. */
export function sendNext(links: Links, peer: number, life: number, sent: number[]): void {
  for (const [lane, name] of LANES.entries()) {
    if (links.waiting(peer, name) >= WAITING_MAX) continue;
    const sequence = sent[lane] ?? 0;
    links.send(peer, name, frameOfLife(life, lane, sequence), payloadOf(sequence, sizeOf(sequence)));
    sent[lane] = sequence + 1;
  }
}
