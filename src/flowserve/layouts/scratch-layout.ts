/**
 * Activations of one step in an NPU's region: what there is of each row, and what rows are read with when all layers are computed.
 * @module
 */
import type { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import { attentionScratchBytes, gateScratchBytes, kvTileBytes, sampleScratchBytes } from '../../model/kernels/kernels.ts';
import type { Areas } from '../../xccl/areas.ts';
import type { Span } from '../forward/arithmetic.ts';
import { layoutProducts, type ProductScratch } from '../forward/products.ts';
import { attendedWidth, gatherPlaces, type RankSplit } from '../forward/rank-split.ts';
import type { TensorShare } from '../forward/tensor-share.ts';
import { type dispatchPlaces, kvFormatOf, type LayoutOptions, pairsOfRow, SPAN_WORDS, type StepScratch } from './step-layout.ts';

/** Rows whose logits are computed at once. */
export const LOGIT_ROWS_MAX = 64;
const LOGPROBS_MAX = 32;

/** Activations of one step, in floats unless said otherwise; `rows` = the step's tokens. */
export type Scratch = StepScratch &
  ProductScratch & {
    readonly qA: number;
    readonly qNope: number;
    readonly q: number;
    readonly kv: number;
    readonly v: number;
    readonly attention: number;
    readonly values: number;
    readonly projected: number;
    readonly attentionScratch: number;
    readonly gateUp: number;
    readonly activated: number;
    readonly routerLogits: number;
    readonly gateScratch: number;
    readonly sharedOut: number;
    /** Of an MTP layer: embedding and hidden state, side by side. */
    readonly joined: number;
    /** A dense layer's activations and rows after a layer of experts, where ranks gather them. */
    readonly inner: number;
    readonly ownRows: number;
    readonly headRows: number;
    readonly logits: number;
    readonly sampleScratch: number;
    readonly topIds: number;
    readonly topValues: number;
    readonly outputPairs: number;
  };

/** Where the rows stand whose KV is written. */
export const storesOf = ({ spans, stores }: Pick<Scratch, 'spans' | 'stores'>, ofStep: readonly Span[]): number =>
  ofStep.some(({ kept }) => kept !== undefined) ? stores : spans;

type ReadoutScratch = Pick<Scratch, 'headRows' | 'logits' | 'sampleScratch' | 'topIds' | 'topValues' | 'outputPairs'>;
/** What of a row lies in the dispatch area, or elsewhere where that is another micro-batch's. */
type DispatchPlaces = Omit<ReturnType<typeof dispatchPlaces>, 'bytes'>;

/** What there is of each row of a step. */
export function layoutRows(
  config: ModelConfig,
  options: LayoutOptions,
  rows: number,
  split: RankSplit,
  projection: TensorShare,
  arena: Arena,
  areas: Areas,
  { normed, sentScales, sent, pairRows, segments, attended }: DispatchPlaces,
): Omit<Scratch, keyof ReadoutScratch> {
  const { attention, hiddenSize, moe } = config;
  const heads = split.heads.count;
  const tables = areas.gather_bytes > 0 ? gatherPlaces(config, options, LOGIT_ROWS_MAX, areas.gather) : null;
  const words = (count: number): number => arena.allocate(count * 4);
  const mla = attention.kind === 'mla' ? attention : null;
  const gqa = attention.kind === 'gqa' ? attention : null;
  const qWidth = mla ? mla.kvLoraRank + mla.ropeDim : (gqa?.headDim ?? 0);
  const outWidth = mla ? mla.kvLoraRank : (gqa?.headDim ?? 0);
  const inter = Math.max(config.mlp.intermediateSize, moe.intermediateSize * Math.max(1, moe.sharedExperts));
  const shared = projection.tp > 1 ? attended : tables?.attended;
  return {
    tokenIds: words(rows),
    positions: words(rows),
    spans: words(rows * SPAN_WORDS),
    stores: words(rows * SPAN_WORDS),
    x: words(rows * hiddenSize),
    ...{ normed, sentScales, sent },
    qA: words(rows * (mla?.qLoraRank ?? 0)),
    qNope: words(rows * heads * (mla?.nopeDim ?? 0)),
    q: words(rows * heads * qWidth),
    kv: words(rows * (mla ? mla.kvLoraRank + mla.ropeDim : (gqa?.kvHeads ?? 0) * (gqa?.headDim ?? 0))),
    v: words(rows * (gqa?.kvHeads ?? 0) * (gqa?.headDim ?? 0)),
    attention: gqa && shared !== undefined ? shared : words(rows * heads * outWidth),
    values: mla && shared !== undefined ? shared : words(rows * heads * (mla?.vDim ?? 0)),
    projected: tables?.projected ?? words(rows * hiddenSize),
    attentionScratch: arena.allocate(kvTileBytes(mla ? qWidth : 2 * outWidth, kvFormatOf(options)) + attentionScratchBytes(rows, heads)),
    gateUp: words(rows * 2 * inter),
    activated: words(rows * inter),
    routerLogits: words(rows * moe.experts),
    experts: words(rows * moe.topK),
    expertWeights: words(rows * moe.topK),
    // Behind it a bias that masks experts.
    gateScratch: arena.allocate(gateScratchBytes(moe.experts) + moe.experts * 4),
    rowIndices: words(rows * moe.topK),
    pairRows,
    segments,
    replies: words(rows * pairsOfRow(moe, options.deployment) * hiddenSize),
    gathered: words(rows * (projection.tp > 1 ? Math.max(hiddenSize, attendedWidth(config)) : hiddenSize)),
    sharedOut: words(rows * hiddenSize),
    joined: words(config.draftLayers === undefined ? 0 : rows * 2 * hiddenSize),
    ...layoutProducts(config, rows, Math.max(hiddenSize, inter, attendedWidth(config), mla?.qLoraRank ?? 0), arena),
    inner: tables?.activated ?? 0,
    ownRows: tables?.rows ?? 0,
  };
}

/** What rows are read with, when all layers are computed. */
export function layoutReadout(config: ModelConfig, options: LayoutOptions, arena: Arena, areas: Areas): ReadoutScratch {
  const { hiddenSize, vocabSize } = config;
  const tables = areas.gather_bytes > 0 ? gatherPlaces(config, options, LOGIT_ROWS_MAX, areas.gather) : null;
  const words = (count: number): number => arena.allocate(count * 4);
  return {
    headRows: words(LOGIT_ROWS_MAX * hiddenSize),
    logits: tables?.logits ?? words(LOGIT_ROWS_MAX * vocabSize),
    sampleScratch: arena.allocate(sampleScratchBytes(vocabSize)),
    topIds: words(LOGPROBS_MAX),
    topValues: words(LOGPROBS_MAX),
    outputPairs: words(2 * Math.min(config.maxPositions, vocabSize)),
  };
}
