/**
 * Routing that is forced to be even (xDeepServe figure 11, "Avg-routing"): the rows of a batch go to experts in turn, whatever the gate has chosen, which is computed
 * all the same. What comes of it are not the model's tokens: it is what balancing can reach at most, to be measured against.
 *
 *   ids     | 0 1 2 3 … | 0 1 2 3 … | …     read from a place that differs by NPU and layer, so that they do not all begin with the same
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import type { LayoutOptions, ModelShape } from '../layouts/step-layout.ts';

/** u32 [rows][top k] and as many more as there are experts. */
const wordsOf = ({ moe }: ModelShape, rows_max: number): number => rows_max * moe.topK + moe.experts;

/** Null where experts are the gate's choice. */
export const layoutEvenExperts = (model: ModelShape, { average_routing, max_batch_tokens }: LayoutOptions, arena: Arena): number | null =>
  average_routing === true && model.moe.experts > 0 ? arena.allocate(4 * wordsOf(model, max_batch_tokens)) : null;

export function fillEvenExperts(model: ModelShape, place: number, rows_max: number, space: Pick<AddressSpace, 'wordsOf'>): void {
  const words = space.wordsOf(place);
  const first = offsetOf(place) >>> 2;
  for (let at = 0; at < wordsOf(model, rows_max); at++) words[first + at] = at % model.moe.experts;
}

/** Where the ids lie, within the segment, for rows from `first` on. */
export const evenExpertsAt = ({ moe }: ModelShape, place: number, npu: number, layer: number, first: number): number =>
  offsetOf(place) + 4 * (first * moe.topK + (((npu + layer) * moe.topK) % moe.experts));
