/**
 * The experts as a micro-batch asks them in its DP domain's turn: one round of the domain's iteration for each layer (xccl/iterations.ts). One without rows goes
 * through the rounds with nothing, as the whole NPU does in an iteration in which it has no step.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { TokenBatch } from '../xccl/dispatch.ts';
import type { Iterations } from '../xccl/iterations.ts';
import type { Arithmetic } from './arithmetic.ts';
import type { LaneExperts } from './micro-batches.ts';
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

  /** `sharedId`: of the shared expert, where another NPU has it. */
  constructor(lane: number, model: Arithmetic, iterations: Iterations, place: MicroBatchPlace, sharedId: number | null, space: AddressSpace) {
    this.#lane = lane;
    this.#model = model;
    this.#iterations = iterations;
    this.#place = place;
    this.#sharedId = sharedId;
    this.#words = space.wordsOf(model.layout.base);
  }

  get missing(): number[] {
    return this.#iterations.missing(this.#lane);
  }

  ask(_part: Experts, rows: number): void {
    this.#iterations.ask(this.#lane, rows === 0 ? NOTHING : this.#batch(rows));
  }

  answer(rows: number): boolean {
    if (!this.#iterations.answer(this.#lane)) return false;
    const { topK } = this.#model.config.moe;
    const words = this.#words;
    const places = offsetOf(this.#place.collect.places) / 4;
    const indices = this.#model.at.rowIndices / 4;
    const { top_k } = this.#place.collect;
    for (let row = 0; row < rows; row++)
      for (let slot = 0; slot < topK; slot++) words[indices + row * topK + slot] = words[places + row * top_k + slot] as number;
    return true;
  }

  #batch(rows: number): TokenBatch {
    const model = this.#model;
    const { topK } = model.config.moe;
    const { top_k, weights } = this.#place.collect;
    const words = this.#words;
    const chosen = model.at.experts / 4;
    const ids = offsetOf(this.#place.ids) / 4;
    for (let row = 0; row < rows; row++) {
      for (let slot = 0; slot < topK; slot++) words[ids + row * top_k + slot] = words[chosen + row * topK + slot] as number;
      if (this.#sharedId !== null) words[ids + row * top_k + topK] = this.#sharedId;
    }
    // Answers are summed by the gate's own weights, here: those of the exchange are looked at by nobody.
    return { tokens: rows, rows: model.layout.scratch.normed, experts: this.#place.ids, weights, format: model.layout.narrow.there };
  }
}
