/**
 * Where a ring's large payloads lie: a byte area beside the ring, filled and emptied in the ring's order.
 *
 *        tail                 head
 *   |·····|▒▒▒▒▒▒▒▒▒|▒▒▒▒▒▒▒▒▒|··········|        positions are wrapping int32, like the ring's
 *
 * A payload lies in one piece: where it would wrap, the end is skipped and counts as taken with it. Only the producer knows head; a payload's place and
 * the bytes taken for it travel in its frame. Tail is the consumer's, in its line of the ring, and stored before the ring's own tail: whoever has seen
 * a frame's room given back sees that of its payload too.
 * @module
 */
import { assert } from '../protocol/errors.ts';

export const roundUp8 = (bytes: number): number => (bytes + 7) & ~7;

/** A payload of up to half a slab fits an empty one wherever its head stands: what is skipped is shorter than the payload. */
export const slabPayloadBytesMax = (slab_bytes: number): number => slab_bytes / 2;

class SlabView {
  protected readonly words: Int32Array;
  protected readonly tailWord: number;
  /** Where it begins in memory. */
  readonly offset: number;
  readonly capacity: number;

  constructor(words: Int32Array, tailWord: number, offset: number, capacity: number) {
    assert(capacity >= 256 && (capacity & (capacity - 1)) === 0, `a slab's size is a power of two from 256 up, not ${capacity}`);
    this.words = words;
    this.tailWord = tailWord;
    this.offset = offset;
    this.capacity = capacity;
  }
}

/** The producer's end. */
export class SlabWriter extends SlabView {
  #head: number;
  /** Most bytes that were ever taken at once. */
  bytes_max = 0;
  /** What the last `claim` found: bytes to skip, then those of the payload. */
  #skip = 0;

  constructor(words: Int32Array, tailWord: number, offset: number, capacity: number) {
    super(words, tailWord, offset, capacity);
    this.#head = Atomics.load(words, tailWord);
  }

  /** Bytes taken and not yet given back, those skipped included. */
  get bytes(): number {
    return (this.#head - Atomics.load(this.words, this.tailWord)) | 0;
  }

  /** Offset in the slab for a payload, kept by `commit`; -1: no room now. */
  claim(bytes: number): number {
    const length = roundUp8(bytes);
    const at = this.#head & (this.capacity - 1);
    this.#skip = length <= this.capacity - at ? 0 : this.capacity - at;
    if (this.bytes + this.#skip + length > this.capacity) return -1;
    return this.#skip === 0 ? at : 0;
  }

  /** Takes what was claimed. Returns the bytes taken. */
  commit(bytes: number): number {
    const taken = this.#skip + roundUp8(bytes);
    this.#head = (this.#head + taken) | 0;
    this.bytes_max = Math.max(this.bytes_max, this.bytes);
    return taken;
  }
}

/** The consumer's end. */
export class SlabReader extends SlabView {
  #tail: number;
  #released: number;

  constructor(words: Int32Array, tailWord: number, offset: number, capacity: number) {
    super(words, tailWord, offset, capacity);
    this.#tail = Atomics.load(words, tailWord);
    this.#released = this.#tail;
  }

  /** Accounts for a payload that a frame names; it stays as it is until `release`. */
  take(at: number, bytes: number, taken: number): void {
    const length = roundUp8(bytes);
    const expected = (this.#tail + taken - length) & (this.capacity - 1);
    assert(
      bytes <= slabPayloadBytesMax(this.capacity) && taken >= length && taken - length < length + 8 && at === expected && at + length <= this.capacity,
      `a payload of ${bytes} bytes at ${at} of a slab of ${this.capacity}: the ring is corrupt`,
    );
    this.#tail = (this.#tail + taken) | 0;
  }

  release(): void {
    if (this.#tail !== this.#released) this.restate();
  }

  restate(): void {
    Atomics.store(this.words, this.tailWord, this.#tail);
    this.#released = this.#tail;
  }
}
