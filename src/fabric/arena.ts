/** @module */
import { assert } from '../protocol/errors.ts';
import { addressText, roundUp } from './address.ts';

/** Gives out a region's bytes from its base upwards, for good: weights, tables, areas. Run once on base 0 to learn a size, once for real. */
export class Arena {
  readonly base: number;
  readonly limit: number;
  #next: number;

  constructor(base: number, bytes = Number.POSITIVE_INFINITY) {
    this.base = base;
    this.limit = base + bytes;
    this.#next = base;
  }

  allocate(bytes: number, alignment = 64): number {
    const address = roundUp(this.#next, alignment);
    this.#next = address + bytes;
    assert(this.#next <= this.limit, `arena at ${addressText(this.base)} holds ${this.limit - this.base} bytes, ${this.#next - this.base} were asked for`);
    return address;
  }

  /** Bytes given out, alignment included; nothing is ever given back, so this is the high-water mark as well. */
  get used(): number {
    return this.#next - this.base;
  }
}
