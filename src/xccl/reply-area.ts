/**
 * Room for answers in a die's own memory: given to one source after the other, free again when that source has taken its answer.
 * @module
 */
import { invariantBroken } from '../protocol/errors.ts';

export type IsTaken = (source: number, event: number, lane: number) => boolean;

/** Where a die keeps its answers until they are taken. */
export type Replies = {
  /** Of one answer. */
  readonly answer_bytes_max: number;
  readonly used: number;
  readonly high_water: number;
  /** The offset of `bytes` for the source's event on a lane; −1: no room before others have taken theirs. */
  allocate(source: number, event: number, bytes: number, lane: number): number;
  /** Frees what is taken. */
  sweep(isTaken: IsTaken): void;
  /** The source is given up: frees what was for it. */
  forget(source: number): void;
};

/** Bytes `from` … `to` − 1, for the source's event on a lane. */
export type Held = { readonly source: number; readonly event: number; readonly lane: number; readonly from: number; readonly to: number };

export class ReplyArea implements Replies {
  readonly answer_bytes_max: number;
  /** By offset. */
  readonly #held: Held[] = [];
  #used = 0;
  #highWater = 0;

  constructor(bytes: number) {
    this.answer_bytes_max = bytes;
  }

  get used(): number {
    return this.#used;
  }

  get high_water(): number {
    return this.#highWater;
  }

  /** First fit. */
  allocate(source: number, event: number, bytes: number, lane: number): number {
    if (bytes > this.answer_bytes_max) invariantBroken(`an answer of ${bytes} bytes in an area of ${this.answer_bytes_max}`);
    let from = 0;
    let index = 0;
    for (; index < this.#held.length; index++) {
      const next = this.#held[index] as Held;
      if (next.from - from >= bytes) break;
      from = next.to;
    }
    if (this.answer_bytes_max - from < bytes) return -1;
    this.#held.splice(index, 0, { source, event, lane, from, to: from + bytes });
    this.#used += bytes;
    this.#highWater = Math.max(this.#highWater, this.#used);
    return from;
  }

  sweep(isTaken: IsTaken): void {
    for (let index = this.#held.length - 1; index >= 0; index--) {
      const { source, event, lane, from, to } = this.#held[index] as Held;
      if (!isTaken(source, event, lane)) continue;
      this.#held.splice(index, 1);
      this.#used -= to - from;
    }
  }

  forget(source: number): void {
    this.sweep((holder) => holder === source);
  }
}
