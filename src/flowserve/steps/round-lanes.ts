/**
 * The experts as a micro-batch asks them in its DP domain's turn: one round of the domain's iteration for each layer (xccl/iterations.ts). One without rows goes
 * through the rounds with nothing, as the whole NPU does in an iteration in which it has no step.
 *
 * A row names the slot that computes it by the map of this NPU, the expert that it takes to be there, and the map's epoch. Who has the slot and holds another one
 * refuses: all of the iteration's rounds are counted, so nothing can be asked for once more in it, and the step goes on with the next one, by a later map. So it does where
 * rows, there or back, are not what they were, which an NPU finds by their sums: at once, but not for ever.
 *
 * Of NPUs that are lost nobody is asked: another one that has the expert by the map computes it. Where there is none the step leaves the iteration as if it had been refused,
 * while others of the domain go on, and waits until one of those that have it is back, or a later map says who else does.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { TokenBatch } from '../../xccl/dispatch.ts';
import type { DpDomainLife } from '../../xccl/dp-domain.ts';
import type { Iterations, LaneAnswer } from '../../xccl/iterations.ts';
import type { ExpertRouting } from '../experts/expert-routing.ts';
import { replicasByMap, slotThere } from '../experts/expert-slots.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import { pairId } from '../layouts/dp-domains.ts';
import type { MicroBatchPlace, SharedPlace } from '../layouts/turns-layout.ts';
import { ASK_AGAIN_MS, DAMAGED_MAX, PEERS_DEADLINE_MS } from './asked-peers.ts';
import type { LaneExperts } from './micro-batch.ts';
import type { Experts } from './step-parts.ts';

const NOTHING: TokenBatch = { tokens: 0, rows: 0, experts: 0, weights: 0 };

/** Where the shared expert is computed in a life of the domain; undefined: nowhere, or beside attention. */
export const sharedIn = (shared: readonly SharedPlace[], { rankOfExpert }: DpDomainLife): SharedPlace | undefined =>
  shared.find(({ rank }) => rankOfExpert[rank] !== -1);

export type RoundLaneOptions = {
  readonly lane: number;
  readonly model: Arithmetic;
  readonly iterations: Iterations;
  readonly place: MicroBatchPlace;
  /** Other NPUs that have the shared expert. */
  readonly shared: readonly SharedPlace[];
  readonly space: AddressSpace;
  /** The map of the NPU. */
  readonly routing: ExpertRouting;
  readonly lost: ReadonlySet<number>;
  readonly now_ms: () => number;
};

export class RoundLane implements LaneExperts {
  readonly #options: RoundLaneOptions;
  readonly #words: Int32Array;
  /** Of the map by which it asked last. */
  #epoch = 0;
  /** Under which map it was refused last, when, and since when again and again. */
  #refused: { readonly epoch: number; readonly at_ms: number; readonly since_ms: number } | null = null;
  /** NPUs, all lost, that alone have an expert by the map of that epoch which was to be asked. */
  #awaited: { readonly epoch: number; readonly npus: readonly number[] } | null = null;
  /** Of the step: so often it was not what it had been. */
  #damaged = 0;
  /** Batches that were refused, since this was made. */
  refusals = 0;

  constructor(options: RoundLaneOptions) {
    this.#options = options;
    this.#words = options.space.wordsOf(options.model.layout.base);
  }

  get missing(): readonly number[] {
    return this.#awaited?.npus ?? this.#options.iterations.missing(this.#options.lane);
  }

  get awaitsLost(): boolean {
    const { routing, lost } = this.#options;
    return this.#awaited !== null && this.#awaited.epoch === routing.epoch && this.#awaited.npus.every((npu) => lost.has(npu));
  }

  get mustWait(): boolean {
    const { routing, now_ms } = this.#options;
    return this.awaitsLost || (this.#refused !== null && this.#refused.epoch === routing.epoch && now_ms() - this.#refused.at_ms < ASK_AGAIN_MS);
  }

  /** Not at an answer: a step that is refused at its second layer time and again has answers at its first. */
  stepBegins(): void {
    this.#refused = null;
    this.#awaited = null;
    this.#damaged = 0;
  }

  ask({ layer }: Experts, rows: number): boolean {
    const { iterations, lane } = this.#options;
    this.#awaited = null;
    const batch = rows === 0 ? NOTHING : this.#batch(layer, rows);
    if (batch !== null) iterations.ask(lane, batch);
    else iterations.giveUp();
    return batch !== null;
  }

  pass(): void {
    this.#options.iterations.ask(this.#options.lane, NOTHING);
  }

  answer(rows: number): LaneAnswer {
    const { lane, model, iterations, place } = this.#options;
    const answer = iterations.answer(lane);
    if (answer === 'damaged') {
      this.#noteDamage();
      return 'refused';
    }
    if (answer === 'refused') this.#noteRefusal();
    if (answer !== 'here') return answer;
    const { topK } = model.config.moe;
    const words = this.#words;
    const places = offsetOf(place.collect.places) / 4;
    const indices = model.at.rowIndices / 4;
    const { top_k } = place.collect;
    for (let row = 0; row < rows; row++)
      for (let slot = 0; slot < topK; slot++) words[indices + row * topK + slot] = words[places + row * top_k + slot] as number;
    return 'here';
  }

  /** It is asked for again at once. */
  #noteDamage(): void {
    const { model } = this.#options;
    if (++this.#damaged > DAMAGED_MAX)
      throw new MinipodError('worker_failed', `rows of NPU ${model.layout.npu} were ${this.#damaged} times in one step not what was left there`);
  }

  #noteRefusal(): void {
    const { now_ms: clock, model } = this.#options;
    const now_ms = clock();
    const since_ms = this.#refused?.since_ms ?? now_ms;
    this.refusals++;
    this.#refused = { epoch: this.#epoch, at_ms: now_ms, since_ms };
    if (now_ms - since_ms > PEERS_DEADLINE_MS)
      throw new MinipodError(
        'deadline_exceeded',
        `NPU ${model.layout.npu} is refused its experts since ${(now_ms - since_ms).toFixed(0)} ms; it goes by map epoch ${this.#epoch}`,
      );
  }

  /** Null: nobody who is there has some expert, or the shared one. */
  #batch(layer: number, rows: number): TokenBatch | null {
    const { lane, model, iterations, place, shared, routing } = this.#options;
    const { life } = iterations;
    const { topK, experts } = model.config.moe;
    const { spread, maps } = model.layout.expertSlots;
    const map = offsetOf(maps[layer] ?? 0) / 4;
    const { top_k, weights, tokens_max } = place.collect;
    const first = spread + lane * tokens_max;
    const words = this.#words;
    this.#epoch = routing.epoch;
    const holder = sharedIn(shared, life);
    if (shared.length > 0 && holder === undefined) return this.#await(shared.map(({ npu }) => npu));
    const isThere = (slot: number): boolean => life.rankOfExpert[place.rank_of_expert[slot] as number] !== -1;
    const chosen = model.at.experts / 4;
    const ids = offsetOf(place.ids) / 4;
    for (let row = 0; row < rows; row++) {
      for (let choice = 0; choice < topK; choice++) {
        const expert = words[chosen + row * topK + choice] as number;
        const slot = slotThere(words, map, experts, expert, first + row, isThere);
        if (slot < 0) return this.#await(replicasByMap(words, map, experts, expert).map((of) => this.#npuOf(of)));
        words[ids + row * top_k + choice] = pairId(expert, slot);
      }
      if (holder !== undefined) words[ids + row * top_k + topK] = holder.id;
    }
    // Answers are summed by the gate's own weights, here: those of the exchange are looked at by nobody.
    const { there: format } = model.layout.narrow;
    return { tokens: rows, rows: model.layout.scratch.normed, experts: place.ids, weights, format, note: this.#epoch };
  }

  #await(npus: readonly number[]): null {
    this.#awaited = { epoch: this.#epoch, npus };
    return null;
  }

  #npuOf(slot: number): number {
    const { group, each } = this.#options.model.layout.expertSlots;
    return group.first + Math.floor(slot / each);
  }
}
