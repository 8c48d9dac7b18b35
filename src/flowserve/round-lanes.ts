/**
 * The experts as a micro-batch asks them in its DP domain's turn: one round of the domain's iteration for each layer (xccl/iterations.ts). One without rows goes
 * through the rounds with nothing, as the whole NPU does in an iteration in which it has no step.
 *
 * A row names the slot that computes it by the map of this NPU, the expert that it takes to be there, and the map's epoch. Who has the slot and holds another one
 * refuses: all of the iteration's rounds are counted, so nothing can be asked for once more in it, and the step goes on with the next one, by a later map.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { TokenBatch } from '../xccl/dispatch.ts';
import type { Iterations, LaneAnswer } from '../xccl/iterations.ts';
import type { Arithmetic } from './arithmetic.ts';
import { ASK_AGAIN_MS, PEERS_DEADLINE_MS } from './asked-peers.ts';
import { pairId } from './dp-domains.ts';
import type { ExpertRouting } from './expert-routing.ts';
import { slotByMap } from './expert-slots.ts';
import type { LaneExperts } from './micro-batch.ts';
import type { Experts } from './step-parts.ts';
import type { MicroBatchPlace } from './turns-layout.ts';

const NOTHING: TokenBatch = { tokens: 0, rows: 0, experts: 0, weights: 0 };

export class RoundLane implements LaneExperts {
  readonly #lane: number;
  readonly #model: Arithmetic;
  readonly #iterations: Iterations;
  readonly #place: MicroBatchPlace;
  readonly #sharedId: number | null;
  readonly #words: Int32Array;
  readonly #routing: ExpertRouting;
  readonly #now_ms: () => number;
  /** Of the map by which it asked last. */
  #epoch = 0;
  /** Under which map it was refused last, when, and since when again and again. */
  #refused: { readonly epoch: number; readonly at_ms: number; readonly since_ms: number } | null = null;
  /** Batches that were refused, since this was made. */
  refusals = 0;

  /** `sharedId`: of the shared expert, where another NPU has it. `routing`: the map of the NPU. */
  constructor(
    lane: number,
    model: Arithmetic,
    iterations: Iterations,
    place: MicroBatchPlace,
    sharedId: number | null,
    space: AddressSpace,
    routing: ExpertRouting,
    now_ms: () => number,
  ) {
    this.#lane = lane;
    this.#model = model;
    this.#iterations = iterations;
    this.#place = place;
    this.#sharedId = sharedId;
    this.#words = space.wordsOf(model.layout.base);
    this.#routing = routing;
    this.#now_ms = now_ms;
  }

  get missing(): number[] {
    return this.#iterations.missing(this.#lane);
  }

  get mustWait(): boolean {
    return this.#refused !== null && this.#refused.epoch === this.#routing.epoch && this.#now_ms() - this.#refused.at_ms < ASK_AGAIN_MS;
  }

  /** Not at an answer: a step that is refused at its second layer time and again has answers at its first. */
  stepBegins(): void {
    this.#refused = null;
  }

  ask({ layer }: Experts, rows: number): void {
    this.#iterations.ask(this.#lane, rows === 0 ? NOTHING : this.#batch(layer, rows));
  }

  pass(): void {
    this.#iterations.ask(this.#lane, NOTHING);
  }

  answer(rows: number): LaneAnswer {
    const answer = this.#iterations.answer(this.#lane);
    if (answer === 'refused') this.#noteRefusal();
    if (answer !== 'here') return answer;
    const { topK } = this.#model.config.moe;
    const words = this.#words;
    const places = offsetOf(this.#place.collect.places) / 4;
    const indices = this.#model.at.rowIndices / 4;
    const { top_k } = this.#place.collect;
    for (let row = 0; row < rows; row++)
      for (let slot = 0; slot < topK; slot++) words[indices + row * topK + slot] = words[places + row * top_k + slot] as number;
    return 'here';
  }

  #noteRefusal(): void {
    const now_ms = this.#now_ms();
    const since_ms = this.#refused?.since_ms ?? now_ms;
    this.refusals++;
    this.#refused = { epoch: this.#epoch, at_ms: now_ms, since_ms };
    if (now_ms - since_ms > PEERS_DEADLINE_MS)
      throw new MinipodError(
        'deadline_exceeded',
        `NPU ${this.#model.layout.npu} is refused its experts since ${(now_ms - since_ms).toFixed(0)} ms; it goes by map epoch ${this.#epoch}`,
      );
  }

  #batch(layer: number, rows: number): TokenBatch {
    const model = this.#model;
    const { topK, experts } = model.config.moe;
    const { spread, maps } = model.layout.expertSlots;
    const map = offsetOf(maps[layer] ?? 0) / 4;
    const { top_k, weights, tokens_max } = this.#place.collect;
    const first = spread + this.#lane * tokens_max;
    const words = this.#words;
    this.#epoch = this.#routing.epoch;
    const chosen = model.at.experts / 4;
    const ids = offsetOf(this.#place.ids) / 4;
    for (let row = 0; row < rows; row++) {
      for (let choice = 0; choice < topK; choice++) {
        const expert = words[chosen + row * topK + choice] as number;
        words[ids + row * top_k + choice] = pairId(expert, slotByMap(words, map, experts, expert, first + row));
      }
      if (this.#sharedId !== null) words[ids + row * top_k + topK] = this.#sharedId;
    }
    // Answers are summed by the gate's own weights, here: those of the exchange are looked at by nobody.
    const { there: format } = model.layout.narrow;
    return { tokens: rows, rows: model.layout.scratch.normed, experts: this.#place.ids, weights, format, note: this.#epoch };
  }
}
