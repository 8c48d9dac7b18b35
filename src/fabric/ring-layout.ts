/**
 * What lies where in a ring, as words from its start.
 *
 *   0   head: bytes ever written     stored by the producer only; each side spins on a cache line of its own
 *   16  waits: 1 while frames wait for room, the producer's too; on another line, since the consumer looks at it and it seldom changes
 *   32  tail: bytes ever read        33  slab tail: bytes of the slab ever read; stored by the consumer only
 *   64  data, a power of two in size; positions are wrapping int32, compared by subtraction
 *   …   the slab, if the ring has one (slab.ts)
 *
 *   frame:     | kind + sum      | source | destination | sequence | epoch | time | bytes | roles | payload … padded to 8 bytes
 *   extended:  | … + EXTENDED    | …                                             | bytes | roles | slab offset | slab bytes | at | total | payload, or it lies in the slab
 *
 * A frame never wraps: where it would, a PAD frame | 0 | bytes to the end | fills the end. `bytes` counts the payload at hand, which is the part from `at`
 * of a payload of `total`; `slab bytes` what the slab gives up for it.
 * @module
 */
import { assert } from '../protocol/errors.ts';
import { slabPayloadBytesMax } from './slab.ts';

export const FRAME = { kind: 0, source: 1, destination: 2, sequence: 3, epoch: 4, time: 5, bytes: 6, roles: 7 } as const;
export const EXTENT = { slab_offset: 8, slab_bytes: 9, at: 10, total: 11 } as const;
export const HEADER_WORDS = 8;
export const HEADER_BYTES = HEADER_WORDS * 4;
export const EXTENDED_BYTES = HEADER_BYTES + 4 * 4;
export const WAITS_WORD = 16;
export const TAIL_WORD = 32;
export const SLAB_TAIL_WORD = 33;
export const DATA_WORD = 64;
export const PAD = 0;
export const KIND_MASK = 0xff;
/** Of the kind's word; the rest is the frame's sum (frame-sum.ts). */
export const FLAGS_MASK = 0x1ff;
/** Flag beside the kind: four words more follow the header. */
export const EXTENDED = 0x100;

/** Larger payloads of a ring with a slab lie there: what waits behind a large one keeps its room in the ring. */
const INLINE_BYTES_MAX = 1_024;
/** No larger payload travels, not even in parts: a larger length in a frame is rubbish. */
export const PAYLOAD_BYTES_MAX = 2 ** 28;

export type RingShape = { readonly offset: number; readonly capacity: number; readonly slab_bytes: number };

export const ringBytes = ({ capacity, slab_bytes }: Omit<RingShape, 'offset'>): number => DATA_WORD * 4 + capacity + slab_bytes;

/** The largest payload that lies in the ring itself: half of it without a slab, so that a frame and its padding always fit an empty ring. */
export const inlineBytesMax = ({ capacity, slab_bytes }: RingShape): number =>
  slab_bytes === 0 ? capacity / 2 - EXTENDED_BYTES : Math.min(INLINE_BYTES_MAX, capacity / 8);
/** The largest payload that travels in one frame. */
export const wholeBytesMax = (shape: RingShape): number =>
  Math.min(shape.slab_bytes === 0 ? inlineBytesMax(shape) : slabPayloadBytesMax(shape.slab_bytes), PAYLOAD_BYTES_MAX);
/** A quarter, so that the producer fills a part while the consumer reads another. */
export const partBytesMax = ({ capacity, slab_bytes }: RingShape): number =>
  (slab_bytes === 0 ? capacity : slab_bytes) / 4 - (slab_bytes === 0 ? EXTENDED_BYTES : 0);

/**
 * Readies a ring and its slab for a successor: zeroes their indices. Nobody may hold an end of it: peers have detached, and the old thread is proven gone.
 */
export function clearRing(memory: WebAssembly.Memory, { offset }: Pick<RingShape, 'offset'>): void {
  const words = new Int32Array(memory.buffer, offset, DATA_WORD);
  for (let word = 0; word < DATA_WORD; word++) Atomics.store(words, word, 0);
}

type Views = { readonly words: Int32Array; readonly bytes: Uint8Array };
const views = new WeakMap<ArrayBufferLike, Views>();

/** One for all rings of a memory: a thread looks at each of them at every turn, and finds what it looks through in its caches. */
function viewsOf({ buffer }: WebAssembly.Memory): Views {
  let known = views.get(buffer);
  if (known === undefined) {
    known = { words: new Int32Array(buffer), bytes: new Uint8Array(buffer) };
    views.set(buffer, known);
  }
  return known;
}

export class RingView {
  protected readonly words: Int32Array;
  protected readonly bytes: Uint8Array;
  protected readonly headWord: number;
  protected readonly tailWord: number;
  protected readonly dataByte: number;
  protected readonly capacity: number;

  constructor(memory: WebAssembly.Memory, { offset, capacity }: RingShape) {
    assert(capacity >= 256 && (capacity & (capacity - 1)) === 0, `a ring's capacity is a power of two, not ${capacity}`);
    assert(offset % 128 === 0, `a ring starts on a cache line pair, not at ${offset}`);
    ({ words: this.words, bytes: this.bytes } = viewsOf(memory));
    this.headWord = offset / 4;
    this.tailWord = offset / 4 + TAIL_WORD;
    this.dataByte = offset + DATA_WORD * 4;
    this.capacity = capacity;
  }
}
