/**
 * What an MTP layer has beside what every layer has (DeepSeek-V3, arXiv 2412.19437 §2.2; xDeepServe §4.6): its input is made of two, the hidden state of a position
 * and the embedding of the token after it, each normalised, joined by a projection; its output goes through a norm of its own into the main model's head.
 *
 *   x = eh_proj [ enorm(embedding of t(i + 1)) | hnorm(norm(h i)) ]  ─▶ a layer as others are ─▶ head(norm(x)): the draft of t(i + 2)
 *
 * Row i lies at position i + 1 of the layer's KV, the token's that it has taken in: so what a block holds depends on no token behind it, and the prefix cache
 * knows it by the same key as the main model's. There is nothing at position 0.
 *
 * A second layer drafts the token behind that, from what the first has left of a row and the token after the one that this has taken in: its row i lies at position
 * i + 2. So each layer takes in a position's token there, with what the layer before has left at the position before:
 *
 *   main model at p ─▶ first layer at p + 1 ─▶ second layer at p + 2
 *
 * At a step's first position the second needs what the first has left of the step before: of each slot that row is kept.
 * @module
 */
import type { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Linear, MakeLinear, Vector } from './npu-layout.ts';
import type { LayoutOptions, ModelShape } from './step-layout.ts';

export type MtpWeights = {
  readonly enorm: Vector;
  readonly hnorm: Vector;
  readonly project: Linear;
  /** Before the head. */
  readonly norm: Vector;
};

/** Of each MTP layer in memory. */
export const layoutMtp = ({ layers, draftLayers = 0, hiddenSize }: ModelConfig, linear: MakeLinear, vector: (length: number) => Vector): MtpWeights[] =>
  Array.from({ length: draftLayers }, (_, index) => ({
    enorm: vector(hiddenSize),
    hnorm: vector(hiddenSize),
    project: linear(`model.layers.${layers + index}.eh_proj.weight`, hiddenSize, 2 * hiddenSize),
    norm: vector(hiddenSize),
  }));

/** One to put a row aside, then a row of each slot; null: no second layer needs them. */
export const layoutSlotRows = ({ draftLayers = 0 }: ModelShape, { max_batch_requests }: LayoutOptions, row_bytes: number, arena: Arena): number | null =>
  draftLayers > 1 ? arena.allocate((max_batch_requests + 1) * row_bytes) : null;
