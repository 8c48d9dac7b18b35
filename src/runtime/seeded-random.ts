/**
 * Chance for a virtual run: the same numbers for the same seed, on every runtime.
 * SFC32, the 32-bit small fast counter of Doty-Humphrey's PractRand: 128 bits of state, one of them a counter, so that no cycle is shorter than 2³².
 * @module
 */
import type { Random } from './clock.ts';

/** Numbers that are drawn and thrown away at first: until then the state shows the seed. */
const WARM_UP = 15;

export class SeededRandom implements Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** `seed`: any integer that a JavaScript number holds exactly. `stream`: numbers of different streams have nothing to do with one another. */
  constructor(seed: number, stream = 0) {
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 2 ** 32) >>> 0;
    this.#c = stream >>> 0;
    for (let drawn = 0; drawn < WARM_UP; drawn++) this.uint32();
  }

  uint32(): number {
    const sum = (((this.#a + this.#b) >>> 0) + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) >>> 0;
    return sum;
  }

  /** A whole number from 0 up to, without, `limit`, which is at most 2³². Its bias is below limit / 2³². */
  below(limit: number): number {
    return Math.floor((this.uint32() / 2 ** 32) * limit);
  }

  drawSeed(): number {
    return (this.uint32() & 0xffff) * 2 ** 32 + this.uint32();
  }
}
