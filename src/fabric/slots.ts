/**
 * 64-byte slots between two threads: the ring's indices and its races, and no frame. For fixed words at the rate of the cache lines themselves; a writer
 * that needs a kind, a sequence or an epoch has a word for it. Slots are taken in rows that lie one after the other, since a call for each slot costs as
 * much as moving its cache line.
 * @module
 */
import { type RingShape, RingView } from './ring-layout.ts';

export const SLOT_WORDS = 16;
const SLOT_BYTES = SLOT_WORDS * 4;

export class SlotProducer extends RingView {
  /** The segment's words, of which `at` is an index. */
  readonly slots: Int32Array;
  /** First word of the row that `claim` gave. */
  at = 0;
  #head: number;
  #published: number;
  #tailSeen: number;

  constructor(memory: WebAssembly.Memory, shape: RingShape) {
    super(memory, shape);
    this.slots = this.words;
    this.#head = Atomics.load(this.words, this.headWord);
    this.#published = this.#head;
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
  }

  /** Takes up to `count` slots in a row from word `at` on, to be filled before `publish`. Returns how many; 0: no room now. */
  claim(count: number): number {
    const wanted = Math.min(count * SLOT_BYTES, this.capacity - (this.#head & (this.capacity - 1)));
    let free = this.capacity - ((this.#head - this.#tailSeen) | 0);
    if (free < wanted) {
      this.#tailSeen = Atomics.load(this.words, this.tailWord);
      free = this.capacity - ((this.#head - this.#tailSeen) | 0);
    }
    const taken = Math.min(wanted, free);
    this.at = (this.dataByte + (this.#head & (this.capacity - 1))) >>> 2;
    this.#head = (this.#head + taken) | 0;
    return taken / SLOT_BYTES;
  }

  /** Shows all slots claimed so far to the consumer. True if there were any. */
  publish(): boolean {
    if (this.#head === this.#published) return false;
    Atomics.store(this.words, this.headWord, this.#head);
    this.#published = this.#head;
    return true;
  }
}

export class SlotConsumer extends RingView {
  /** The segment's words, of which `at` is an index. */
  readonly slots: Int32Array;
  /** First word of the row that `take` gave. */
  at = 0;
  #tail: number;
  #released: number;
  #headSeen: number;

  constructor(memory: WebAssembly.Memory, shape: RingShape) {
    super(memory, shape);
    this.slots = this.words;
    this.#tail = Atomics.load(this.words, this.tailWord);
    this.#released = this.#tail;
    this.#headSeen = this.#tail;
  }

  /** Takes up to `count` slots in a row from word `at` on, valid until `release`. Returns how many; 0: nothing there. */
  take(count: number): number {
    if (this.#tail === this.#headSeen) this.#headSeen = Atomics.load(this.words, this.headWord);
    const toEnd = this.capacity - (this.#tail & (this.capacity - 1));
    const taken = Math.min(count * SLOT_BYTES, toEnd, (this.#headSeen - this.#tail) | 0);
    this.at = (this.dataByte + (this.#tail & (this.capacity - 1))) >>> 2;
    this.#tail = (this.#tail + taken) | 0;
    return taken / SLOT_BYTES;
  }

  /** Gives all slots taken so far back to the producer. */
  release(): void {
    if (this.#tail === this.#released) return;
    Atomics.store(this.words, this.tailWord, this.#tail);
    this.#released = this.#tail;
  }
}
