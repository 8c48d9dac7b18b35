/**
 * The experts' side of a round (xccl/turns.ts): pairs of all the domain's attention NPUs, sorted by slot, so that each expert computes the rows of all of them in
 * few calls; then every row to its place among the answers. Which expert computes a row with which others changes no bit of it. Who asks a slot for an expert that
 * it does not hold, or not since the map that he goes by, is refused all that he asks in this round: nobody computes with another expert's weights. So is he whose rows
 * are not what he has left.
 *
 *   received    | pairs of source 0 | pairs of source 1 | …      (id, row) each, by source
 *   order       | rows of slot 0 | rows of slot 2 | …            ─ gather ─▶ expert ─▶ answers, in this order
 *   places      of each pair: its row among the answers           ─ gather ─▶ reply area, by source again
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import type { Numerics } from '../../protocol/numerics.ts';
import type { Replies } from '../../xccl/combine.ts';
import type { ReceivedTokens } from '../../xccl/dispatch.ts';
import type { ExpertEnd } from '../../xccl/ends.ts';
import { NAME_SHIFT, PLACE_MASK } from '../../xccl/token-routing.ts';
import type { ExpertArithmetic } from '../forward/arithmetic.ts';
import { rowFormatsOf } from '../forward/narrow-rows.ts';
import { expertIn, holdsExpert } from './expert-slots.ts';
import type { ExpertTimes } from './expert-times.ts';

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
  /** By slot, the shared expert last: its first pair in `order`, and the end of the last one. */
  readonly #first: Int32Array;
  readonly #next: Int32Array;
  /** By source. */
  #refused = new Uint8Array(0);

  constructor(forward: ExpertArithmetic, space: AddressSpace, scratch: RoundScratch, times: ExpertTimes) {
    this.#times = times;
    this.#forward = forward;
    this.#words = space.wordsOf(forward.layout.base);
    this.#scratch = scratch;
    this.#first = new Int32Array(forward.layout.expertSlots.each + 2);
    this.#next = new Int32Array(forward.layout.expertSlots.each + 1);
  }

  /** A row for each pair received, but for those that are refused: at the end's `reply_rows` if they travel as they are. */
  compute(layer: number, { received, reply_rows }: ExpertEnd): Replies {
    const { pairs, memory } = received;
    const { order, places, answers, inOrder } = this.#scratch;
    const rows = inOrder === 0 ? reply_rows : inOrder;
    const format = this.#forward.layout.narrow.back;
    if (pairs === 0) return { rows, format };
    const { row_bytes, rows_max, expertSlots } = this.#forward.layout;
    const { gathered } = this.#forward.at;
    const refuses = this.#look(layer, received);
    this.#sort(received);
    let began_us = this.#times.begin();
    for (let slot = 0; slot < this.#next.length; slot++) {
      const end = this.#first[slot + 1] as number;
      for (let from = this.#first[slot] as number; from < end; from += rows_max) {
        const count = Math.min(rows_max, end - from);
        this.#forward.gatherRows(gathered, offsetOf(memory.rows), offsetOf(order) + 4 * from, count);
        this.#forward.expert(layer, slot, offsetOf(answers) + from * row_bytes, gathered, count);
        if (began_us >= 0) began_us = this.#times.add(layer, this.#nameOf(expertIn(this.#words, expertSlots, layer, slot)), count, began_us);
      }
    }
    this.#forward.gatherRows(offsetOf(rows), offsetOf(answers), offsetOf(places), pairs);
    return { rows, format, refused: refuses ? this.#refused : null };
  }

  /** Slots that hold none are the shared expert's. */
  #nameOf(expert: number): number {
    return expert < 0 ? this.#forward.config.moe.experts : expert;
  }

  /** Holds what each source asks for against what the slots hold. True: somebody is refused. */
  #look(layer: number, { sources, first_pair, notes, damaged, memory }: ReceivedTokens): boolean {
    const words = this.#words;
    const { expertSlots } = this.#forward.layout;
    const shared = this.#forward.config.moe.experts;
    const ids = offsetOf(memory.pair_experts) / 4;
    if (this.#refused.length < sources) this.#refused = new Uint8Array(sources);
    let refuses = false;
    for (let source = 0; source < sources; source++) {
      const end = first_pair[source + 1] as number;
      let isRefused = damaged[source] !== 0;
      // Pairs of one slot lie side by side, and are all for the same expert unless somebody is wrong.
      for (let pair = first_pair[source] as number, before = -1; pair < end && !isRefused; pair++) {
        const id = words[ids + pair] as number;
        if (id === before) continue;
        before = id;
        const expert = id >>> NAME_SHIFT;
        isRefused = expert !== shared && !holdsExpert(words, expertSlots, layer, this.#slotOf(id), expert, notes[source] as number);
      }
      this.#refused[source] = isRefused ? 1 : 0;
      refuses ||= isRefused;
    }
    return refuses;
  }

  /** Of this NPU; places behind those of the group's slots are all the shared expert's, whoever holds it (dp-domains.ts). */
  #slotOf(id: number): number {
    const { rank, each, total } = this.#forward.layout.expertSlots;
    const place = id & PLACE_MASK;
    return place < total ? place - rank * each : each;
  }

  /** A counting sort, of those pairs that are not refused. */
  #sort({ sources, first_pair, memory }: ReceivedTokens): void {
    const words = this.#words;
    const ids = offsetOf(memory.pair_experts) / 4;
    const rows = offsetOf(memory.pair_rows) / 4;
    const order = offsetOf(this.#scratch.order) / 4;
    const places = offsetOf(this.#scratch.places) / 4;
    const first = this.#first.fill(0);
    const next = this.#next;
    for (let source = 0; source < sources; source++) {
      if (this.#refused[source] !== 0) continue;
      const end = first_pair[source + 1] as number;
      for (let pair = first_pair[source] as number; pair < end; pair++) {
        const slot = this.#slotOf(words[ids + pair] as number);
        first[slot + 1] = (first[slot + 1] as number) + 1;
      }
    }
    for (let slot = 0; slot < next.length; slot++) {
      next[slot] = first[slot] as number;
      first[slot + 1] = (first[slot + 1] as number) + (first[slot] as number);
    }
    for (let source = 0; source < sources; source++) {
      const isRefused = this.#refused[source] !== 0;
      const end = first_pair[source + 1] as number;
      for (let pair = first_pair[source] as number; pair < end; pair++) {
        if (isRefused) {
          words[places + pair] = 0;
          continue;
        }
        const slot = this.#slotOf(words[ids + pair] as number);
        const place = next[slot] as number;
        next[slot] = place + 1;
        words[order + place] = words[rows + pair] as number;
        words[places + pair] = place;
      }
    }
  }
}
