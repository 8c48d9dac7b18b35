/**
 * Room for answers in a die's own memory: given to one source after the other, free again when that source has taken its answer.
 * @module
 */
import { assert } from '../protocol/errors.ts';

type Held = { readonly source: number; readonly event: number; readonly from: number; readonly to: number };

export class ReplyArea {
  readonly bytes: number;
  /** By offset. */
  readonly #held: Held[] = [];
  #used = 0;
  #highWater = 0;

  constructor(bytes: number) {
    this.bytes = bytes;
  }

  get used(): number {
    return this.#used;
  }

  get high_water(): number {
    return this.#highWater;
  }

  /** The offset of `bytes` for the source's event, first fit; −1: no room before others have taken theirs. */
  allocate(source: number, event: number, bytes: number): number {
    assert(bytes <= this.bytes, `an answer of ${bytes} bytes in an area of ${this.bytes}`);
    let from = 0;
    let index = 0;
    for (; index < this.#held.length; index++) {
      const next = this.#held[index] as Held;
      if (next.from - from >= bytes) break;
      from = next.to;
    }
    if (this.bytes - from < bytes) return -1;
    this.#held.splice(index, 0, { source, event, from, to: from + bytes });
    this.#used += bytes;
    this.#highWater = Math.max(this.#highWater, this.#used);
    return from;
  }

  /** Frees what is taken. */
  sweep(isTaken: (source: number, event: number) => boolean): void {
    for (let index = this.#held.length - 1; index >= 0; index--) {
      const { source, event, from, to } = this.#held[index] as Held;
      if (!isTaken(source, event)) continue;
      this.#held.splice(index, 1);
      this.#used -= to - from;
    }
  }
}
