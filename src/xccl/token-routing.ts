/**
 * The gate's choice, sorted for the wire: which tokens go to which destination, each once, and which (expert, token) pairs are computed there.
 *
 *   pairs       by (destination, expert id, token): what a destination computes is a run of them, and each of its experts' a run within
 *   rows        by (destination, token): a token that two experts of one destination want travels once
 *   id          | name: 16 bits | place: 16 bits |     the place says which destination; a token's answers are summed by ascending id, so by ascending name
 *
 * Where each expert has one place, its number alone is the id. Where it has several, or another one tomorrow, it is the name, and travels along: so whoever computes
 * sees what was meant.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert, invariantBroken, MinipodError } from '../protocol/errors.ts';

export const NAME_SHIFT = 16;
export const PLACE_MASK = (1 << NAME_SHIFT) - 1;

export type RoutingLimits = { readonly tokens_max: number; readonly top_k: number };
/** Where the tables that kernels read lie: u32 and f32, tokens_max × top_k each. */
export type RoutingTables = { readonly row_tokens: number; readonly weights: number };

export class TokenRouting {
  readonly destinations: number;
  readonly limits: RoutingLimits;
  tokens = 0;
  /** By destination, and the sum at the end. */
  readonly first_row: Int32Array;
  readonly first_pair: Int32Array;
  /** By pair. */
  readonly expert_of_pair: Int32Array;
  /** By pair: its row among the destination's. */
  readonly row_of_pair: Int32Array;
  /** By pair: token × top_k + slot, the slots of a token in ascending expert id. */
  readonly slot_of_pair: Int32Array;
  readonly #destinationOf: ArrayLike<number>;
  /** Places by (destination, place). */
  readonly #order: readonly number[];
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  readonly #rowTokens: number;
  readonly #weights: number;
  /** By token × top_k + slot, ascending. */
  readonly #experts: Int32Array;
  /** By place. */
  readonly #next: Int32Array;
  /** By destination. */
  readonly #lastToken: Int32Array;
  readonly #rows: Int32Array;

  /** `destination_of_place`: from 0 to `destinations` − 1; −1: nobody may be asked there. */
  constructor(space: AddressSpace, destination_of_place: ArrayLike<number>, destinations: number, limits: RoutingLimits, tables: RoutingTables) {
    this.destinations = destinations;
    this.limits = limits;
    this.#destinationOf = destination_of_place;
    assert(destination_of_place.length <= PLACE_MASK + 1, `${destination_of_place.length} places for experts, ids name ${PLACE_MASK + 1} at most`);
    const at = (place: number): number => destination_of_place[place] as number;
    this.#order = Array.from({ length: destination_of_place.length }, (_, place) => place)
      .filter((place) => at(place) !== -1)
      .sort((a, b) => at(a) - at(b) || a - b);
    for (const place of this.#order) assert(at(place) >= 0 && at(place) < destinations, `place ${place} is at ${at(place)} of ${destinations}`);
    this.#words = space.wordsOf(tables.row_tokens);
    this.#floats = space.floatsOf(tables.weights);
    this.#rowTokens = offsetOf(tables.row_tokens) / 4;
    this.#weights = offsetOf(tables.weights) / 4;
    const pairs = limits.tokens_max * limits.top_k;
    this.first_row = new Int32Array(destinations + 1);
    this.first_pair = new Int32Array(destinations + 1);
    this.expert_of_pair = new Int32Array(pairs);
    this.row_of_pair = new Int32Array(pairs);
    this.slot_of_pair = new Int32Array(pairs);
    this.#experts = new Int32Array(pairs);
    this.#next = new Int32Array(destination_of_place.length);
    this.#lastToken = new Int32Array(destinations);
    this.#rows = new Int32Array(destinations);
  }

  rowsTo(destination: number): number {
    return (this.first_row[destination + 1] as number) - (this.first_row[destination] as number);
  }

  pairsTo(destination: number): number {
    return (this.first_pair[destination + 1] as number) - (this.first_pair[destination] as number);
  }

  /**
   * Sorts the choice of `tokens` tokens: `experts` u32 and `weights` f32, both [tokens, top_k], in this segment.
   * @throws `invalid_request` for an expert that there is not, `out_of_memory` for more tokens than the tables hold.
   */
  sort(experts: number, weights: number, tokens: number): void {
    const { tokens_max, top_k } = this.limits;
    if (tokens > tokens_max) {
      const bytes = (count: number): number => 4 * count * top_k;
      throw new MinipodError(
        'out_of_memory',
        `${tokens} tokens of ${top_k} experts need tables of ${bytes(tokens)} bytes, ${bytes(tokens_max)} are granted: for ${tokens_max}`,
      );
    }
    this.tokens = tokens;
    this.#copyAscending(offsetOf(experts) / 4, offsetOf(weights) / 4);
    this.#count();
    this.#fill();
  }

  /** The sum goes by ascending expert id, whatever order the gate wrote. */
  #copyAscending(from: number, fromWeights: number): void {
    const { top_k } = this.limits;
    const chosen = this.#experts;
    const floats = this.#floats;
    const known = this.#destinationOf.length;
    for (let token = 0, first = 0; token < this.tokens; token++, first += top_k) {
      for (let slot = first; slot < first + top_k; slot++) {
        const expert = this.#words[from + slot] as number;
        const weight = floats[fromWeights + slot] as number;
        if (expert < 0 || (expert & PLACE_MASK) >= known)
          throw new MinipodError('invalid_request', `token ${token} is for expert ${expert & PLACE_MASK}, there are ${known}`);
        if (this.#destinationOf[expert & PLACE_MASK] === -1) invariantBroken(`token ${token} is for place ${expert & PLACE_MASK}, where nobody may be asked`);
        let at = slot;
        for (; at > first && (chosen[at - 1] as number) > expert; at--) {
          chosen[at] = chosen[at - 1] as number;
          floats[this.#weights + at] = floats[this.#weights + at - 1] as number;
        }
        chosen[at] = expert;
        floats[this.#weights + at] = weight;
      }
    }
  }

  #count(): void {
    const { top_k } = this.limits;
    const next = this.#next.fill(0);
    const rows = this.#rows.fill(0);
    const last = this.#lastToken.fill(-1);
    for (let token = 0, slot = 0; token < this.tokens; token++) {
      for (const end = slot + top_k; slot < end; slot++) {
        const place = (this.#experts[slot] as number) & PLACE_MASK;
        const destination = this.#destinationOf[place] as number;
        next[place] = (next[place] as number) + 1;
        if (last[destination] === token) continue;
        last[destination] = token;
        rows[destination] = (rows[destination] as number) + 1;
      }
    }
    const pairs = this.first_pair.fill(0);
    let pair = 0;
    for (let index = 0; index < this.#order.length; index++) {
      const place = this.#order[index] as number;
      const count = next[place] as number;
      next[place] = pair;
      pair += count;
      pairs[(this.#destinationOf[place] as number) + 1] = pair;
    }
    for (let destination = 0; destination < this.destinations; destination++) {
      this.first_row[destination + 1] = (this.first_row[destination] as number) + (rows[destination] as number);
      // A destination without an expert ends where the one before it does.
      if ((pairs[destination + 1] as number) < (pairs[destination] as number)) pairs[destination + 1] = pairs[destination] as number;
    }
  }

  #fill(): void {
    const { top_k } = this.limits;
    const next = this.#next;
    const rows = this.#rows.fill(0);
    const last = this.#lastToken.fill(-1);
    for (let token = 0, slot = 0; token < this.tokens; token++) {
      for (const end = slot + top_k; slot < end; slot++) {
        const expert = this.#experts[slot] as number;
        const place = expert & PLACE_MASK;
        const destination = this.#destinationOf[place] as number;
        if (last[destination] !== token) {
          last[destination] = token;
          this.#words[this.#rowTokens + (this.first_row[destination] as number) + (rows[destination] as number)] = token;
          rows[destination] = (rows[destination] as number) + 1;
        }
        const pair = next[place] as number;
        next[place] = pair + 1;
        this.expert_of_pair[pair] = expert;
        this.row_of_pair[pair] = (rows[destination] as number) - 1;
        this.slot_of_pair[pair] = slot;
      }
    }
  }
}
