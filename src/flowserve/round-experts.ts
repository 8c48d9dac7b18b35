/**
 * The experts' side of a round (xccl/turns.ts): pairs of all the domain's attention NPUs, sorted by expert, so that each expert computes the rows of all of them in
 * few calls; then every row to its place among the answers. Which expert computes a row with which others changes no bit of it.
 *
 *   received    | pairs of source 0 | pairs of source 1 | …      (expert, row) each, by source
 *   order       | rows of expert 3 | rows of expert 7 | …        ─ gather ─▶ expert ─▶ answers, in this order
 *   places      of each pair: its row among the answers           ─ gather ─▶ reply area, by source again
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Arena } from '../fabric/arena.ts';
import type { Numerics } from '../protocol/numerics.ts';
import type { Replies } from '../xccl/combine.ts';
import type { ExpertEnd } from '../xccl/ends.ts';
import type { ExpertArithmetic } from './arithmetic.ts';
import type { ExpertTimes } from './expert-times.ts';
import { rowFormatsOf } from './narrow-rows.ts';

/** Scratch of one round, for so many pairs; no two are computed at once. */
export type RoundScratch = {
  readonly pairs_max: number;
  /** u32 [pairs] each. */
  readonly order: number;
  readonly places: number;
  /** Rows of activations: answers by expert; and by source, where they do not travel as they are, 0 where they do. */
  readonly answers: number;
  readonly inOrder: number;
};

export const layoutRound = (pairs_max: number, row_bytes: number, numerics: Numerics, arena: Arena): RoundScratch => ({
  pairs_max,
  order: arena.allocate(4 * pairs_max),
  places: arena.allocate(4 * pairs_max),
  answers: arena.allocate(row_bytes * pairs_max),
  inOrder: rowFormatsOf(numerics).back === 'f32' ? 0 : arena.allocate(row_bytes * pairs_max),
});

export class RoundExperts {
  readonly #forward: ExpertArithmetic;
  readonly #words: Int32Array;
  readonly #scratch: RoundScratch;
  readonly #times: ExpertTimes;
  /** By expert, the shared one last: its first pair in `order`, and the end of the last one. */
  readonly #first: Int32Array;
  readonly #next: Int32Array;

  constructor(forward: ExpertArithmetic, space: AddressSpace, scratch: RoundScratch, times: ExpertTimes) {
    this.#times = times;
    this.#forward = forward;
    this.#words = space.wordsOf(forward.layout.base);
    this.#scratch = scratch;
    this.#first = new Int32Array(forward.config.moe.experts + 2);
    this.#next = new Int32Array(forward.config.moe.experts + 1);
  }

  /** A row for each pair received: at the end's `reply_rows` if they travel as they are. */
  compute(layer: number, { received, reply_rows }: ExpertEnd): Replies {
    const { pairs, memory } = received;
    const { order, places, answers, inOrder } = this.#scratch;
    const rows = inOrder === 0 ? reply_rows : inOrder;
    const replies = { rows, format: this.#forward.layout.narrow.back };
    if (pairs === 0) return replies;
    const { row_bytes, rows_max, expertSlots } = this.#forward.layout;
    const { gathered } = this.#forward.at;
    this.#sort(offsetOf(memory.pair_experts) / 4, offsetOf(memory.pair_rows) / 4, pairs);
    let began_us = this.#times.begin();
    for (let expert = 0; expert < this.#next.length; expert++) {
      const end = this.#first[expert + 1] as number;
      // Experts stay where they are where domains take turns (option-checks.ts): each in its primary's slot.
      const slot = expert === this.#next.length - 1 ? expertSlots.each : Math.floor(expert / expertSlots.group.npus);
      for (let from = this.#first[expert] as number; from < end; from += rows_max) {
        const count = Math.min(rows_max, end - from);
        this.#forward.gatherRows(gathered, offsetOf(memory.rows), offsetOf(order) + 4 * from, count);
        this.#forward.expert(layer, slot, offsetOf(answers) + from * row_bytes, gathered, count);
        if (began_us >= 0) began_us = this.#times.add(layer, expert, count, began_us);
      }
    }
    this.#forward.gatherRows(offsetOf(rows), offsetOf(answers), offsetOf(places), pairs);
    return replies;
  }

  /** A counting sort. Ids above the last routed expert's are all the shared one, whoever holds it (domain-layout.ts). */
  #sort(experts: number, rows: number, pairs: number): void {
    const words = this.#words;
    const order = offsetOf(this.#scratch.order) / 4;
    const places = offsetOf(this.#scratch.places) / 4;
    const first = this.#first.fill(0);
    const next = this.#next;
    const shared = next.length - 1;
    for (let pair = 0; pair < pairs; pair++) {
      const expert = Math.min(words[experts + pair] as number, shared);
      first[expert + 1] = (first[expert + 1] as number) + 1;
    }
    for (let expert = 0; expert <= shared; expert++) {
      next[expert] = first[expert] as number;
      first[expert + 1] = (first[expert + 1] as number) + (first[expert] as number);
    }
    for (let pair = 0; pair < pairs; pair++) {
      const expert = Math.min(words[experts + pair] as number, shared);
      const place = next[expert] as number;
      next[expert] = place + 1;
      words[order + place] = words[rows + pair] as number;
      words[places + pair] = place;
    }
  }
}
