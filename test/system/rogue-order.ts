/** How a test tells a rogue worker to go rogue: two words of a thread that nobody is. */
import type { AddressSpace } from '../../src/fabric/address-space.ts';

const NOBODY = 127;

export class RogueOrder {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(space: AddressSpace) {
    this.#words = space.wordsOf(space.regions[0]?.base ?? 0);
    this.#at = space.control.stopWordOffset(NOBODY) / 4;
  }

  give(thread: number, duration_ms: number): void {
    this.#words[this.#at + 1] = duration_ms;
    Atomics.store(this.#words, this.#at, thread);
  }

  /** Milliseconds to be rogue for, once; 0: no order for this thread. */
  take(thread: number): number {
    return Atomics.compareExchange(this.#words, this.#at, thread, 0) === thread ? (this.#words[this.#at + 1] as number) : 0;
  }
}
