/**
 * What of a real model is one rank's (tensor-share.ts): which heads, which output columns, and where it computes its part of what is gathered.
 * @module
 */
import { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import { PANEL } from '../../model/kernels/kernels.ts';
import type { NpuLayout } from '../layouts/npu-layout.ts';
import type { LayoutOptions } from '../layouts/step-layout.ts';
import { type Gathered, GatherTables, partOf, type Range, type TablePlace, type TensorShare } from './tensor-share.ts';

/** What of the model is this rank's. */
export type RankSplit = {
  readonly heads: Range;
  /** Output columns: of projections to the hidden size, of dense layers' activations, of logits. */
  readonly hidden: Range;
  /** Of the output projection. */
  readonly projection: Range;
  readonly inner: Range;
  readonly vocab: Range;
};

/** Splits in panels leave no panel half filled. `projection`: the share of the output projection where it is not the ranks that split it. */
export function splitOf({ heads, hiddenSize, mlp, vocabSize }: ModelConfig, share: TensorShare, projection: TensorShare): RankSplit {
  const columns = (width: number): Range => partOf(width, PANEL, share);
  return {
    heads: partOf(heads, 1, share),
    hidden: columns(hiddenSize),
    projection: partOf(hiddenSize, PANEL, projection.tp > 1 ? projection : share),
    inner: columns(mlp.intermediateSize),
    vocab: columns(vocabSize),
  };
}

/** Columns of heads' outputs. */
export const attendedWidth = ({ attention, heads }: ModelConfig): number => heads * (attention.kind === 'mla' ? attention.vDim : attention.headDim);

/** The tables that ranks gather fill the gather area, so that kernels write their part where peers pull it. */
export function gatherPlaces(
  config: ModelConfig,
  { max_batch_tokens: rows }: LayoutOptions,
  logit_rows: number,
  base: number,
): Record<Gathered, number> & { readonly bytes: number } {
  const arena = new Arena(base);
  const words = (count: number): number => arena.allocate(count * 4);
  return {
    attended: words(rows * attendedWidth(config)),
    projected: words(rows * config.hiddenSize),
    activated: words(rows * config.mlp.intermediateSize),
    rows: words(rows * config.hiddenSize),
    logits: words(logit_rows * config.vocabSize),
    bytes: arena.used,
  };
}

/** Neighbours among a rank's heads that one call can attend with: whole groups of a KV head, or heads of one. */
export type HeadRun = {
  /** Counted from the rank's first. */ readonly first: number;
  readonly heads: number;
  readonly firstKvHead: number;
  readonly kvHeads: number;
};

export function headRuns({ first, count }: Range, group: number): HeadRun[] {
  const end = first + count;
  const runs: HeadRun[] = [];
  for (let head = first; head < end; ) {
    const whole = head % group === 0 ? Math.floor((end - head) / group) : 0;
    const heads = whole > 0 ? whole * group : Math.min(end, (Math.floor(head / group) + 1) * group) - head;
    runs.push({ first: head - first, heads, firstKvHead: Math.floor(head / group), kvHeads: Math.max(1, whole) });
    head += heads;
  }
  return runs;
}

/** Where the ranks' parts of each table lie. */
export function tablesOf(config: ModelConfig, { share, scratch }: NpuLayout): GatherTables {
  const { hiddenSize, heads, vocabSize, mlp } = config;
  const columns = (address: number, width: number): TablePlace => ({ address, width, unit: PANEL, column_bytes: 4 });
  return new GatherTables(share.tp, {
    attended: {
      address: config.attention.kind === 'mla' ? scratch.values : scratch.attention,
      ...{ width: heads, unit: 1, column_bytes: (attendedWidth(config) / heads) * 4 },
    },
    projected: columns(scratch.projected, hiddenSize),
    activated: columns(scratch.inner, mlp.intermediateSize),
    rows: { address: scratch.ownRows, width: 1, unit: 1, column_bytes: hiddenSize * 4 },
    logits: columns(scratch.logits, vocabSize),
  });
}
