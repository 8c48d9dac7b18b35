/**
 * What lies where in an NPU's HBM region: weights, KV blocks, tables, activations. All addresses are global.
 * Laid out once on base 0 to learn the size, once for real; both from the same few numbers, so that every thread agrees without asking.
 * @module
 */

import { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import { gqaLayerBytes, INT8_INPUTS_MAX, type KvFormat, mlaLayerBytes, PANEL, packedBytes, TILE } from '../../model/kernels/kernels.ts';
import { ropeTableLength } from '../../model/kernels/rope-table.ts';
import { SAMPLING_WORDS } from '../../model/kernels/sampling-params.ts';
import { isMoeLayer, layersInMemory } from '../../model/moe-layers.ts';
import type { Dtype } from '../../model/safetensors.ts';
import { assert } from '../../protocol/errors.ts';
import { executorOfNpu, sharedExpertNpusOf } from '../../protocol/topology.ts';
import { type AreaSizes, layoutAreas } from '../../xccl/areas.ts';
import { layoutEvenExperts } from '../experts/average-routing.ts';
import { layoutSlotTables, layoutStaging, type SlotWeights } from '../experts/expert-slots.ts';
import { layoutRouting } from '../experts/routed-steps.ts';
import { layoutNarrow } from '../forward/narrow-rows.ts';
import { attendedWidth, gatherPlaces, type RankSplit, splitOf } from '../forward/rank-split.ts';
import { isTensorParallel, partOf, projectionShareOf, type TensorShare, tensorShareOf } from '../forward/tensor-share.ts';
import { weightPieces } from '../weights/replicated-weights.ts';
import { layoutWeightSums } from '../weights/resting-weights.ts';
import { MICRO_BATCHES } from './dp-domains.ts';
import { type GraphPlace, layoutGraphs } from './graph-layout.ts';
import { layoutMtp, layoutSlotRows, type MtpWeights } from './mtp-layout.ts';
import { LOGIT_ROWS_MAX, layoutReadout, layoutRows, type Scratch } from './scratch-layout.ts';
import { layoutSecondBatch } from './second-batch.ts';
import {
  areaSizes,
  dispatchPlaces,
  kvFormatOf,
  type LayoutOptions,
  layoutBlockTables,
  layoutCounts,
  layoutKv,
  layoutOffersOf,
  type ProjectionPlace,
  type SecondBatch,
  type StepLayout,
  secondPlaces,
  sharedNpuFor,
} from './step-layout.ts';
import { type AttentionTurnsPlace, layoutAttentionTurns } from './turns-layout.ts';

/** Matrix weights are kept as BF16 or INT8 where the checkpoint has that, else as F32 (F16 widens exactly). */
export type WeightFormat = 'bf16' | 'f32' | 'int8';
const weightFormat = (dtype: Dtype): WeightFormat => (dtype === 'BF16' ? 'bf16' : dtype === 'I8' ? 'int8' : 'f32');

/** Packed panels; `heads` > 1: one packed matrix a head, `head_bytes` apart. */
export type Linear = {
  readonly address: number;
  readonly inDim: number;
  readonly outDim: number;
  readonly format: WeightFormat;
  readonly heads: number;
  readonly head_bytes: number;
};
export type Vector = { readonly address: number; readonly length: number };

export type MlaWeights = {
  readonly kind: 'mla';
  readonly qA: Linear | null;
  readonly qANorm: Vector | null;
  /** Per head, nope and rope outputs apart, so that each lands where the absorbed query wants it. */
  readonly qNope: Linear;
  readonly qRope: Linear;
  readonly kvA: Linear;
  readonly kvANorm: Vector;
  /** W_UK, per head: nope → latent. */
  readonly absorb: Linear;
  /** W_UV, per head: latent → v. */
  readonly expand: Linear;
  readonly o: Linear;
};
export type GqaWeights = {
  readonly kind: 'gqa';
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly qNorm: Vector;
  readonly kNorm: Vector;
  readonly o: Linear;
};
export type MlpWeights = { readonly gateUp: Linear; readonly down: Linear };
/** Of one layer, what an NPU has of its experts. */
export type ExpertWeights = {
  /** By slot (expert-slots.ts). */
  readonly slots: readonly MlpWeights[];
  /** Null where another NPU computes it, or the model has none. */
  readonly shared: MlpWeights | null;
};
export type MoeWeights = ExpertWeights & { readonly router: Linear; readonly bias: Vector | null };
export type LayerWeights = {
  readonly inputNorm: Vector;
  readonly attention: MlaWeights | GqaWeights;
  readonly postNorm: Vector;
  readonly mlp: MlpWeights | null;
  readonly moe: MoeWeights | null;
};

export type NpuLayout = StepLayout & {
  readonly split: RankSplit;
  readonly embedding: { readonly address: number; readonly format: WeightFormat };
  /** The model's, then MTP layers that are drafted with, of which there is more in `mtp`. */
  readonly layers: readonly LayerWeights[];
  readonly mtp: readonly MtpWeights[];
  readonly finalNorm: Vector;
  readonly head: Linear;
  readonly ropeTable: number;
  readonly kvFormat: KvFormat;
  readonly scratch: Scratch;
  readonly turns: (AttentionTurnsPlace & { readonly scratch: Scratch }) | null;
  readonly second: (SecondBatch & { readonly scratch: Scratch }) | null;
  /** Raw tensor bytes on their way into panels. */
  readonly staging: { readonly address: number; readonly bytes: number };
  /** Per slot: the sampler's record, then its bias pairs and banned ids. */
  readonly samplers: { readonly address: number; readonly slot_bytes: number };
  /** Null where decode is not captured. */
  readonly graphs: GraphPlace | null;
  /** Of the second micro-batch. */
  readonly secondGraphs: GraphPlace | null;
};

export const BIAS_MAX = 1_024;
export const BANNED_MAX = 128;
export const STAGING_BYTES = 1 << 20;

/** The stored dtype of each tensor, by name. */
export type Dtypes = (name: string) => Dtype;

export function layoutNpu(config: ModelConfig, dtypeOf: Dtypes, options: LayoutOptions, npu: number, base: number, bytes?: number): NpuLayout {
  const arena = new Arena(base, bytes);
  const row_bytes = config.hiddenSize * 4;
  const share = tensorShareOf(options.deployment, npu);
  const projectionShare = projectionShareOf(options.deployment, npu);
  const split = splitOf(config, share, projectionShare);
  const tables = isTensorParallel(options.deployment) ? gatherPlaces(config, options, LOGIT_ROWS_MAX, 0) : null;
  const areas = layoutAreas(realAreaSizes(config, options, npu, tables?.bytes ?? 0), arena);
  const areasEnd = arena.used;
  const counts = layoutCounts(config, arena);
  const slotTables = layoutSlotTables(config, options, npu, arena);
  const own = slotTables.rank < 0 ? 0 : slotTables.each;
  const linear = linearsIn(arena, dtypeOf);
  const vector = (length: number): Vector => ({ address: arena.allocate(length * 4), length });
  const { hiddenSize, vocabSize, moe } = config;
  const sharedNpu = sharedNpuFor(moe, options.deployment, npu);

  const embeddingFormat = weightFormat(dtypeOf('model.embed_tokens.weight'));
  const embedding_bytes = vocabSize * hiddenSize * (embeddingFormat === 'bf16' ? 2 : 4);
  const embedding = { address: arena.allocate(embedding_bytes), format: embeddingFormat };
  const dense = (prefix: string): MlpWeights => ({
    gateUp: linear([`${prefix}.gate_proj.weight`, `${prefix}.up_proj.weight`], 2 * split.inner.count, hiddenSize),
    down: linear(`${prefix}.down_proj.weight`, split.hidden.count, config.mlp.intermediateSize),
  });
  const layers = Array.from({ length: layersInMemory(config) }, (_, layer): LayerWeights => {
    const prefix = `model.layers.${layer}`;
    return {
      inputNorm: vector(hiddenSize),
      attention: layoutAttention(config, split, `${prefix}.self_attn`, linear, vector),
      postNorm: vector(hiddenSize),
      mlp: isMoeLayer(config, layer) ? null : dense(`${prefix}.mlp`),
      moe: isMoeLayer(config, layer)
        ? {
            router: linear(`${prefix}.mlp.gate.weight`, moe.experts, hiddenSize),
            bias: moe.gating.kind === 'sigmoid' ? vector(moe.experts) : null,
            ...layoutExperts(config, layer, own, moe.sharedExperts > 0 && sharedNpu === null, linear, dtypeOf),
          }
        : null,
    };
  });
  const finalNorm = vector(hiddenSize);
  const head = linear(config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight', split.vocab.count, hiddenSize);
  const rope_bytes = ropeTableLength(config.maxPositions, config.rope.dim) * 4;
  const ropeTable = arena.allocate(rope_bytes);
  const mtp = layoutMtp(config, linear, vector);
  const replicated = [
    { address: embedding.address, bytes: embedding_bytes },
    ...layers.flatMap((weights, layer) => weightPieces(weights, layer)),
    ...weightPieces([mtp, finalNorm, head]),
    { address: ropeTable, bytes: rope_bytes },
  ];
  const weightSums = layoutWeightSums(replicated.length, arena);
  const weightsEnd = arena.used;
  const { bytes: own_bytes, ...dispatch } = dispatchPlaces(config, row_bytes, options, areas.dispatch, attendedWidth(config) * 4);
  const rowsOf = (rows: number, places: typeof dispatch) => layoutRows(config, options, rows, split, projectionShare, arena, areas, places);
  const scratch = { ...rowsOf(options.max_batch_tokens, dispatch), ...layoutReadout(config, options, arena, areas) };
  const apart = (rows: number): Scratch => ({ ...scratch, ...rowsOf(rows, { ...dispatch, normed: arena.allocate(rows * row_bytes) }) });
  const turns = layoutAttentionTurns(config, row_bytes, options, npu, own_bytes, scratch, apart, arena);
  const behind = (rows: number): Scratch => ({ ...scratch, ...rowsOf(rows, secondPlaces(config, row_bytes, options, dispatch)) });
  const second = turns ?? layoutSecondBatch(config, options, npu, behind, arena);
  const narrow = layoutNarrow(options, options.max_batch_tokens, row_bytes, arena);
  const slotRows = layoutSlotRows(config, options, row_bytes, arena);
  const projection = projectionShare.tp > 1 ? layoutProjection(config, projectionShare, scratch) : null;
  const widest = Math.max(hiddenSize, config.mlp.intermediateSize, moe.intermediateSize * Math.max(1, moe.sharedExperts), config.heads * 512);
  const staging_bytes = Math.max(STAGING_BYTES, 16 * widest * 8);
  const staging = { address: arena.allocate(staging_bytes), bytes: staging_bytes };

  const slotWeights = layers.map(({ moe }) => slotWeightsOf(moe));
  const expertSlots = { ...slotTables, weights: slotWeights, staging: layoutStaging(options, slotWeights, arena) };
  const scratchEnd = arena.used;
  const kvFormat = kvFormatOf(options);
  const kv = layoutKv(config, kvLayerBytes(config, options.kv_block_size, kvFormat), kvRunsOf(config), options, arena);
  const kvEnd = arena.used;
  const blockTables = layoutBlockTables(config.maxPositions, options, arena);
  const offers = layoutOffersOf(options, npu, blockTables.blocks_max, arena);
  const slot_bytes = SAMPLING_WORDS * 4 + BIAS_MAX * 8 + BANNED_MAX * 4;
  const samplers = { address: arena.allocate(options.max_batch_requests * slot_bytes), slot_bytes };
  const routing = layoutRouting(config, options, arena);
  const evenExperts = layoutEvenExperts(config, options, arena);
  const graphsFrom = arena.used;
  const graphsOf = (rows_max: number): GraphPlace | null => (options.enforce_eager ? null : layoutGraphs(config, options, slotTables, rows_max, arena));
  const graphs = graphsOf(LOGIT_ROWS_MAX);
  const secondGraphs = second === null ? null : graphsOf(LOGIT_ROWS_MAX / MICRO_BATCHES);
  const parts = {
    weights: weightsEnd - areasEnd,
    'KV blocks': kvEnd - scratchEnd,
    activations: scratchEnd - weightsEnd + graphsFrom - kvEnd,
    'captured programs': arena.used - graphsFrom,
    'XCCL areas': areasEnd,
  };
  return {
    kind: 'attention',
    npu,
    sharedNpu,
    sharedNpus: sharedNpu === null ? [] : sharedExpertNpusOf(executorOfNpu(options.deployment, npu)),
    replicated,
    share,
    split,
    projection,
    base,
    bytes: arena.used,
    parts,
    rows_max: options.max_batch_tokens,
    row_bytes,
    areas,
    counts,
    expertSlots,
    embedding,
    layers,
    mtp,
    finalNorm,
    head,
    ropeTable,
    scratch,
    staging,
    kv,
    kvFormat,
    blockTables,
    offers,
    routing,
    evenExperts,
    slotRows,
    samplers,
    graphs,
    secondGraphs,
    turns,
    second,
    narrow,
    weightSums,
  };
}

/** KV heads whose positions lie one after the other. */
const kvRunsOf = ({ attention }: ModelConfig): number => (attention.kind === 'mla' ? 1 : attention.kvHeads);

/** Kernels find the block of a tile's first position and read the whole tile there: of a block that ends within it, what lies behind. */
function kvLayerBytes({ attention }: ModelConfig, blockSize: number, format: KvFormat): number {
  assert(blockSize > 0 && blockSize % TILE === 0, `kernels read KV in tiles of ${TILE} positions: kv_block_size is ${blockSize}, no multiple`);
  return attention.kind === 'mla'
    ? mlaLayerBytes(blockSize, attention.kvLoraRank, attention.ropeDim, format)
    : gqaLayerBytes(blockSize, attention.kvHeads, attention.headDim, format);
}

/** Areas of an NPU of real kernels, whatever it is for. */
export const realAreaSizes = (config: ModelConfig, options: LayoutOptions, npu: number, gather_bytes: number): AreaSizes =>
  areaSizes(config, { row_bytes: config.hiddenSize * 4, attended_row_bytes: attendedWidth(config) * 4 }, options, npu, SLOT_BYTES, gather_bytes);

export type MakeLinear = (tensor: string | readonly string[], outDim: number, inDim: number, heads?: number) => Linear;

export const linearsIn =
  (arena: Arena, dtypeOf: Dtypes): MakeLinear =>
  (tensor, outDim, inDim, heads = 1) => {
    const names = typeof tensor === 'string' ? [tensor] : tensor;
    const formats = new Set(names.map((name) => weightFormat(dtypeOf(name))));
    const format = formats.size === 1 ? (formats.values().next().value as WeightFormat) : 'f32';
    // The checkpoint was checked.
    assert(!formats.has('int8') || (format === 'int8' && inDim <= INT8_INPUTS_MAX && inDim % 2 === 0), `${names} of ${inDim} inputs is no INT8 product`);
    const head_bytes = packedBytes(outDim, inDim, format);
    return { address: arena.allocate(head_bytes * heads), inDim, outDim, format, heads, head_bytes };
  };

/** A layer's experts as an NPU has them: so many slots, any of which any of the layer's fits into, and its shared expert if that is the NPU's. */
export function layoutExperts(
  { hiddenSize, moe }: ModelConfig,
  layer: number,
  slots: number,
  hasShared: boolean,
  linear: MakeLinear,
  dtypeOf: Dtypes,
): ExpertWeights {
  const prefix = `model.layers.${layer}.mlp`;
  const mlp = (gateUp: string | readonly string[], down: string, inter: number): MlpWeights => ({
    gateUp: linear(gateUp, 2 * inter, hiddenSize),
    down: linear(down, hiddenSize, inter),
  });
  // One that is stored wide makes all of them wide.
  const widest = (parts: readonly string[]): string => {
    const names = parts.flatMap((part) => Array.from({ length: moe.experts }, (_, expert) => `${prefix}.experts.${expert}.${part}_proj.weight`));
    return names.find((name) => weightFormat(dtypeOf(name)) === 'f32') ?? (names[0] as string);
  };
  const [gateUp, down] = slots === 0 ? ['', ''] : [widest(['gate', 'up']), widest(['down'])];
  const shared = `${prefix}.shared_experts`;
  return {
    slots: Array.from({ length: slots }, () => mlp(gateUp, down, moe.intermediateSize)),
    shared: hasShared
      ? mlp([`${shared}.gate_proj.weight`, `${shared}.up_proj.weight`], `${shared}.down_proj.weight`, moe.sharedExperts * moe.intermediateSize)
      : null,
  };
}

/** Where they lie; null: a dense layer, or an NPU without experts. */
export function slotWeightsOf(weights: ExpertWeights | null): SlotWeights | null {
  const [first, second] = weights?.slots ?? [];
  if (first === undefined) return null;
  const bytes = first.down.address + first.down.head_bytes - first.gateUp.address;
  return { first: first.gateUp.address, stride: second === undefined ? bytes : second.gateUp.address - first.gateUp.address, bytes };
}

function layoutAttention(
  config: ModelConfig,
  split: RankSplit,
  prefix: string,
  linear: MakeLinear,
  vector: (length: number) => Vector,
): MlaWeights | GqaWeights {
  const { attention, heads, hiddenSize } = config;
  const own = split.heads.count;
  const columns = split.projection.count;
  const name = (weight: string): string => `${prefix}.${weight}.weight`;
  if (attention.kind === 'gqa') {
    const { headDim, kvHeads } = attention;
    return {
      kind: 'gqa',
      q: linear(name('q_proj'), own * headDim, hiddenSize),
      k: linear(name('k_proj'), kvHeads * headDim, hiddenSize),
      v: linear(name('v_proj'), kvHeads * headDim, hiddenSize),
      qNorm: vector(headDim),
      kNorm: vector(headDim),
      o: linear(name('o_proj'), columns, heads * headDim),
    };
  }
  const { qLoraRank, kvLoraRank, nopeDim, ropeDim, vDim } = attention;
  const query = name(qLoraRank === null ? 'q_proj' : 'q_b_proj');
  const queryIn = qLoraRank ?? hiddenSize;
  return {
    kind: 'mla',
    qA: qLoraRank === null ? null : linear(name('q_a_proj'), qLoraRank, hiddenSize),
    qANorm: qLoraRank === null ? null : vector(qLoraRank),
    qNope: linear(query, nopeDim, queryIn, own),
    qRope: linear(query, ropeDim, queryIn, own),
    kvA: linear(name('kv_a_proj_with_mqa'), kvLoraRank + ropeDim, hiddenSize),
    kvANorm: vector(kvLoraRank),
    absorb: linear(name('kv_b_proj'), kvLoraRank, nopeDim, own),
    expand: linear(name('kv_b_proj'), vDim, kvLoraRank, own),
    o: linear(name('o_proj'), columns, heads * vDim),
  };
}

/** Slots for bulk data between dies are few and small while all NPUs hold attention and experts: no KV moves between them. */
const SLOT_BYTES = 4_096;

function layoutProjection(config: ModelConfig, share: TensorShare, { attention, values, projected }: Scratch): ProjectionPlace {
  const attended_row_bytes = attendedWidth(config) * 4;
  const columns = Array.from({ length: share.tp }, (_, rank) => {
    const { first, count } = partOf(config.hiddenSize, PANEL, { rank, tp: share.tp });
    return { target: projected + first * 4, bytes: count * 4, skip: first * 4 };
  });
  const attended = config.attention.kind === 'mla' ? values : attention;
  return { share, attended, attended_row_bytes, columns };
}
