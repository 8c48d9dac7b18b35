/**
 * Waits for one field from each of some ranks (xDeepServe §3.2, step 5).
 *
 *   field of dispatch and combine    | a: offset in the writer's area | b: rows, or the sum of an answer | c: pairs | d: domain | e: round, format in the two lowest bits |
 *
 * A field is heard if its domain lives, its round is the one waited for and the endpoint finds its epochs current.
 * @module
 */
import { invariantBroken, MinipodError } from '../protocol/errors.ts';
import { type Channel, FIELD_WORD } from './areas.ts';
import type { Membership } from './membership.ts';
import type { Poll } from './operation.ts';
import { PartList } from './parts.ts';
import type { Awaited } from './wait-chain.ts';

const FORMAT_BITS = 2;
const FORMAT_MASK = (1 << FORMAT_BITS) - 1;

/** Word e; `format`: its code. Rounds wrap at 30 bits. */
export const stampOf = (round: number, format: number): number => (round << FORMAT_BITS) | format;
/** How many rounds the stamp is ahead of `round`; behind, if negative. */
export const roundsAhead = (stamp: number, round: number): number => (((stamp >> FORMAT_BITS) - round) << FORMAT_BITS) >> FORMAT_BITS;

export class Arrivals {
  /** What has come, by index into the ranks waited for. */
  readonly parts: PartList;
  /** `missing` is the list itself, which shrinks as fields come. */
  readonly pending: Poll;
  readonly #membership: Membership;
  readonly #channel: Channel;
  readonly #missing: number[] = [];
  /** Beside `missing`: indices into the ranks waited for. */
  readonly #open: number[] = [];
  readonly #events: Int32Array;
  #round = 0;

  constructor(membership: Membership, channel: Channel, ranks: readonly number[]) {
    this.#membership = membership;
    this.#channel = channel;
    this.parts = new PartList(ranks);
    this.#events = new Int32Array(ranks.length);
    this.pending = { state: 'pending', missing: this.#missing };
  }

  expect(round: number): void {
    this.#round = round;
    this.#missing.length = 0;
    this.#open.length = 0;
    for (let index = 0; index < this.parts.holders.length; index++) {
      this.#missing.push(this.parts.holders[index] as number);
      this.#open.push(index);
    }
  }

  /** Takes in what has come since; true once all of it is there. */
  look(): boolean {
    let kept = 0;
    for (let at = 0; at < this.#missing.length; at++) {
      const index = this.#open[at] as number;
      if (this.#take(index)) continue;
      this.#open[kept] = index;
      this.#missing[kept] = this.#missing[at] as number;
      kept++;
    }
    this.#open.length = kept;
    this.#missing.length = kept;
    return kept === 0;
  }

  /**
   * After the pull: no field has changed meanwhile and no writer was given up, so what was pulled is whole.
   * @throws naming the rank.
   */
  confirm(what: string): void {
    const { endpoint } = this.#membership;
    for (let index = 0; index < this.#events.length; index++) {
      const rank = this.parts.holders[index] as number;
      if (endpoint.isStill(this.#membership.dieOf(rank), this.#channel, this.#events[index] as number)) continue;
      this.#membership.check(what);
      this.#membership.checkMember(what, rank);
      throw new MinipodError('memory_fault', `${what}: ${this.#membership.nameOf(rank)} published anew while its rows were pulled`);
    }
  }

  /** What has not come, for the deadline. */
  awaited(): Awaited[] {
    return this.#missing.map((writer) => ({ writer, reader: this.#membership.rank, channel: this.#channel, round: this.#round }));
  }

  #take(index: number): boolean {
    const event = this.#read(index);
    if (event === 0) return false;
    this.#events[index] = event;
    this.#membership.endpoint.consume(this.#membership.dieOf(this.parts.holders[index] as number), this.#channel, event);
    return true;
  }

  /** The event of what has come of the round; 0: nothing has. */
  #read(index: number): number {
    const { endpoint, tag } = this.#membership;
    const rank = this.parts.holders[index] as number;
    const die = this.#membership.dieOf(rank);
    const channel = this.#channel;
    const event = endpoint.newEventFrom(die, channel);
    if (event === 0) return 0;
    const stamp = endpoint.wordFrom(die, channel, FIELD_WORD.e);
    const ahead = roundsAhead(stamp, this.#round);
    this.parts.set(
      index,
      endpoint.wordFrom(die, channel, FIELD_WORD.a) >>> 0,
      endpoint.wordFrom(die, channel, FIELD_WORD.b),
      endpoint.wordFrom(die, channel, FIELD_WORD.c),
      stamp & FORMAT_MASK,
    );
    if (endpoint.wordFrom(die, channel, FIELD_WORD.d) !== tag || ahead < 0 || !endpoint.isStill(die, channel, event)) return 0;
    if (ahead > 0) invariantBroken(`${this.#membership.nameOf(rank)} is in round ${this.#round + ahead}, nobody has answered round ${this.#round} yet`);
    return event;
  }
}
