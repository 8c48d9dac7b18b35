/**
 * What an attention NPU has for the second of two micro-batches where everything flows (dataflow-lanes.ts): scratch of its own, and of the dispatch area what lies behind
 * the first one's. Answers have a place on either lane (xccl/reserved-replies.ts).
 * @module
 */
import type { Arena } from '../../fabric/arena.ts';
import { executorOfNpu } from '../../protocol/topology.ts';
import { layoutRouting } from '../experts/routed-steps.ts';
import { firstBatchRows, hasTwoBatches, type LayoutOptions, type ModelShape, type SecondBatch, type StepScratch } from './step-layout.ts';

/** Null: the NPU's steps are one batch each. `layoutRows`: of so many rows. */
export function layoutSecondBatch<Scratch extends StepScratch>(
  model: ModelShape,
  options: LayoutOptions,
  npu: number,
  layoutRows: (rows: number) => Scratch,
  arena: Arena,
): (SecondBatch & { readonly scratch: Scratch }) | null {
  if (!hasTwoBatches(options) || executorOfNpu(options.deployment, npu).split === undefined) return null;
  const rows = options.max_batch_tokens - firstBatchRows(options);
  return { scratch: layoutRows(rows), routing: layoutRouting(model, { ...options, max_batch_tokens: rows }, arena) };
}
