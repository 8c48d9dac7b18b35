/**
 * Room for answers of a die that answers many, reserved before anybody asks: each asker has a place that holds all that it can ask for at once, so an answer never
 * waits for room, and an asker that is slow to take its own keeps nobody else's (xDeepServe §5.3: one straggler does not stall the rest).
 *
 *   place of one asker   | lane 0 ▶        ◀ lane 1 |      its two lanes ask for no more, together, than one alone may: so the two never meet
 *
 * An asker asks again on a lane when it has taken the answer there, or given it up. So the place needs nobody's leave to be written again.
 * @module
 */
import { assert, invariantBroken } from '../protocol/errors.ts';
import type { Held, IsTaken, Replies } from './reply-area.ts';

const ALIGNMENT = 64;

export class ReservedReplies implements Replies {
  readonly answer_bytes_max: number;
  readonly #askers: number;
  /** By asker's die: which place is its. */
  readonly #places = new Map<number, number>();
  /** By place and lane. */
  readonly #held = new Map<number, Held>();
  #used = 0;
  #highWater = 0;

  /** `lanes`: 1 or 2. */
  constructor(bytes: number, askers: number, lanes: number) {
    assert(lanes === 1 || lanes === 2, `${lanes} lanes: a place has two ends`);
    this.#askers = askers;
    this.answer_bytes_max = Math.floor(bytes / askers / ALIGNMENT) * ALIGNMENT;
  }

  get used(): number {
    return this.#used;
  }

  get high_water(): number {
    return this.#highWater;
  }

  allocate(source: number, event: number, bytes: number, lane: number): number {
    if (bytes > this.answer_bytes_max) invariantBroken(`an answer of ${bytes} bytes in a place of ${this.answer_bytes_max}`);
    const place = this.#placeOf(source);
    const key = 2 * place + lane;
    this.#free(key);
    const from = place * this.answer_bytes_max + (lane === 0 ? 0 : this.answer_bytes_max - bytes);
    this.#held.set(key, { source, event, lane, from, to: from + bytes });
    this.#used += bytes;
    this.#highWater = Math.max(this.#highWater, this.#used);
    return from;
  }

  sweep(isTaken: IsTaken): void {
    for (const [key, { source, event, lane }] of this.#held) if (isTaken(source, event, lane)) this.#free(key);
  }

  forget(source: number): void {
    const place = this.#places.get(source);
    if (place === undefined) return;
    this.#free(2 * place);
    this.#free(2 * place + 1);
    this.#places.delete(source);
  }

  #free(key: number): void {
    const held = this.#held.get(key);
    this.#used -= held === undefined ? 0 : held.to - held.from;
    this.#held.delete(key);
  }

  #placeOf(source: number): number {
    const known = this.#places.get(source);
    if (known !== undefined) return known;
    const taken = new Set(this.#places.values());
    let place = 0;
    while (taken.has(place)) place++;
    if (place >= this.#askers) invariantBroken(`die ${source} asks, beside ${this.#askers} others that do`);
    this.#places.set(source, place);
    return place;
  }
}
