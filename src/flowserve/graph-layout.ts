/**
 * Where the captured programs of an NPU lie, with the tables that they need.
 *
 *   order │ starts │ shares │ variables │ experts' table │ experts' programs │ program of 1 row │ of 2 rows │ … │ of rows_max
 * @module
 */
import type { Arena } from '../fabric/arena.ts';
import type { ModelConfig } from '../model/config.ts';
import { expertGroupOf, npuOfExpert } from '../protocol/topology.ts';
import type { LayoutOptions } from './step-layout.ts';

/** Addresses are global, as all of a layout. */
export type GraphPlace = {
  /** Rows of the largest step that is captured. */
  readonly rows_max: number;
  /** u32 [experts][2]: (expert, which of its group's NPUs has it), in the order in which pairs are sorted. */
  readonly order: number;
  /** u32 [experts]: scratch of the sort. */
  readonly starts: number;
  /** u32 [NPUs of the group][4]: what the sort found for each (SHARE). */
  readonly shares: number;
  /** u32 [3]: y, x and number of rows of the expert that runs. */
  readonly variables: number;
  /** u32 [layers][experts][2]: address and bytes of each own expert's program, 0 for all others. */
  readonly expertTable: number;
  /** Programs of own experts, `expert_bytes` each, one after the other. */
  readonly expertPrograms: number;
  readonly expert_bytes: number;
  /** Programs of steps: that of n rows at (n − 1) × `step_bytes`. */
  readonly stepPrograms: number;
  readonly step_bytes: number;
};

/** Words of a share, as kernels write it. */
export const SHARE = { firstSegment: 0, segments: 1, firstPair: 2, pairs: 3 } as const;
export const SHARE_WORDS = 4;

/** Three instructions: 25 words. */
const EXPERT_WORDS_MAX = 32;
/** An MLA layer with experts and shared expert has 245. */
const LAYER_WORDS_MAX = 288;
/** Embedding and head: 25. */
const ENDS_WORDS_MAX = 32;

/** `logitRows`: what the logits have room for. */
export function layoutGraphs({ layers, moe }: ModelConfig, options: LayoutOptions, npu: number, logitRows: number, arena: Arena): GraphPlace {
  const group = expertGroupOf(options.deployment, npu);
  const ownExperts = Array.from({ length: moe.experts }, (_, expert) => npuOfExpert(expert, group)).filter((owner) => owner === npu).length;
  const rows_max = Math.min(options.max_batch_requests, options.max_batch_tokens, logitRows);
  const words = (count: number): number => arena.allocate(count * 4);
  const expert_bytes = EXPERT_WORDS_MAX * 4;
  const step_bytes = (layers * LAYER_WORDS_MAX + ENDS_WORDS_MAX) * 4;
  return {
    rows_max,
    order: words(moe.experts * 2),
    starts: words(moe.experts),
    shares: words(group.npus * SHARE_WORDS),
    variables: words(3),
    expertTable: words(layers * moe.experts * 2),
    expertPrograms: arena.allocate(layers * ownExperts * expert_bytes),
    expert_bytes,
    stepPrograms: arena.allocate(rows_max * step_bytes),
    step_bytes,
  };
}
