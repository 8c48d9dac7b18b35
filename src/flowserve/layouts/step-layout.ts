/**
 * What a step finds in an NPU's HBM region whichever arithmetic computes it: areas, counts, KV blocks and their tables, and the rows that experts exchange.
 * @module
 */
import { roundUp } from '../../fabric/address.ts';
import { Arena } from '../../fabric/arena.ts';
import type { BlockPoolPlace } from '../../fabric/block-pool.ts';
import type { ModelConfig, MoeConfig } from '../../model/config.ts';
import type { KvFormat } from '../../model/kernels/kernels.ts';
import { isMoeLayer, layersInMemory } from '../../model/moe-layers.ts';
import type { Numerics } from '../../protocol/numerics.ts';
import type { RowChecks } from '../../protocol/steps.ts';
import { attentionPlaceOf, type Deployment, executorOfNpu, isSplit, type Schedule, sharedExpertNpuFor, sharedExpertNpusOf } from '../../protocol/topology.ts';
import type { AreaSizes, Areas } from '../../xccl/areas.ts';
import type { ExchangeOptions } from '../../xccl/exchange.ts';
import { ROW_SUMS_BYTES, type SumBytes } from '../../xccl/row-sums.ts';
import { layoutOffers, type OffersPlace } from '../distflow/offer-layout.ts';
import type { Speculative } from '../drafters/speculative.ts';
import { type ExpertSlots, slotsMax, slotsOfNpu } from '../experts/expert-slots.ts';
import type { RoutingTable } from '../experts/routed-steps.ts';
import { type NarrowPlace, rowFormatsOf } from '../forward/narrow-rows.ts';
import { hasSplitProjection, type TensorShare } from '../forward/tensor-share.ts';
import type { WeightPiece } from '../weights/replicated-weights.ts';
import { lanesOf, takesTurns, turnDispatchBytes, turnReplyBytes } from './dp-domains.ts';
import type { AttentionTurnsPlace, ExpertTurnsPlace } from './turns-layout.ts';

/** Scratch of a second micro-batch, and what its gates have chosen, if anybody records that. */
export type SecondBatch = { readonly scratch: StepScratch; readonly routing: RoutingTable | null };

/** What a step knows of a model: no width but that of its rows. Any model's config is one; tests and simulations may write one down. */
export type ModelShape = Pick<ModelConfig, 'layers' | 'draftLayers' | 'vocabSize' | 'maxPositions' | 'eosTokenIds'> & {
  readonly moe: Pick<MoeConfig, 'experts' | 'topK' | 'sharedExperts' | 'denseLayers'>;
  /** Of the hash model: the share of its tokens that its MTP layers draft right; missing: they are right by chance. */
  readonly foreseeable?: number;
};

export const kvFormatOf = ({ kv_cache_dtype = 'auto' }: Numerics): KvFormat => (kv_cache_dtype === 'int8' ? 'int8' : 'f32');

/** Into so many a step is cut at most. */
export type MicroBatchCount = 1 | 2;

export type LayoutOptions = Numerics & {
  readonly deployment: Deployment;
  /** NPUs, and spare dies for those that must move. */
  readonly dies: number;
  readonly kv_blocks: number;
  readonly kv_block_size: number;
  readonly max_batch_tokens: number;
  readonly max_batch_requests: number;
  /** Decode runs op by op too: nothing is captured, and no room kept for it. */
  readonly enforce_eager: boolean;
  /** What gates choose is kept until the step is done (routed-steps.ts); missing: it is not. */
  readonly records_routing?: boolean;
  /** Experts are asked in turn, whatever the gate chooses (average-routing.ts); missing: they are not. */
  readonly average_routing?: boolean;
  /** The task executor whose DP groups may come to stand by; missing: none. */
  readonly scaled_executor?: number | undefined;
  /** Prefixes that a group may lend to others at once; missing: none. */
  readonly loans_max?: number;
  /** Of executors whose experts are apart; missing: dataflow. */
  readonly schedule?: Schedule | undefined;
  /** Of a step, where attention and experts are apart; missing: 1. */
  readonly micro_batches?: MicroBatchCount | undefined;
  /** Whether rows are looked at on their way to experts and back (xccl/row-sums.ts); missing: they are. */
  readonly row_checks?: RowChecks | undefined;
  /** Slots of each layer of an executor beyond one for each expert; missing: none. */
  readonly redundant_experts?: number;
  /** By task executor: [layer with experts][slot] → expert, −1: none. Missing: each expert has one slot, the redundant ones are empty. */
  readonly expert_maps?: readonly (readonly (readonly number[])[])[] | undefined;
  /** Steps verify drafts; missing: they do not. */
  readonly speculative?: Speculative | undefined;
  /** Redundant slots hold second copies at first, as far as they go (mirrored.ts); missing: nothing. */
  readonly mirrors_experts?: boolean | undefined;
  /** Nodes over which an executor's NPUs are spread, and groups of experts that the gate chooses among; missing: one. */
  readonly expert_nodes?: { readonly nodes: number; readonly groups: number } | undefined;
};

/** `rows` = the step's tokens. */
export type StepScratch = {
  /** u32 [rows]. */
  readonly tokenIds: number;
  /** u32 [rows]. */
  readonly positions: number;
  /** u32 [sequences][4]: first row, rows, offset of the block table, first position (SPAN). */
  readonly spans: number;
  /** The same without the rows whose KV is kept, in steps that have such. */
  readonly stores: number;
  /** Rows of activations, as the layers so far left them. */
  readonly x: number;
  /** Rows on their way to the experts; the dispatch area begins with them, or with the same as they travel: scales and rows in INT8. */
  readonly normed: number;
  readonly sentScales: number;
  readonly sent: number;
  /** u32 [rows, topK]. */
  readonly experts: number;
  /** f32 [rows, topK]. */
  readonly expertWeights: number;
  /** u32 [rows, topK]: each pair's row in `replies`. */
  readonly rowIndices: number;
  /** u32 [rows × topK]: token of each pair, sorted by (NPU, slot, token); then those of the shared expert, where another NPU computes it. */
  readonly pairRows: number;
  /** u32 [experts][2]: (expert, pairs), in the order of `pairRows`; the shared expert is expert `experts`. */
  readonly segments: number;
  /** By pair, in the order of `pairRows`. */
  readonly replies: number;
  readonly gathered: number;
};

/** Words of a sequence's rows in a step, as kernels find them; `from`: the first position that they attend to. */
export const SPAN = { row: 0, rows: 1, table: 2, from: 3 } as const;
export const SPAN_WORDS = 4;

/** `at`: of the kernels' scratch. `table`: the offset of the sequence's block table. */
export function writeSpan(
  words: Int32Array,
  { spans, stores }: Pick<StepScratch, 'spans' | 'stores'>,
  index: number,
  { row, rows, from = 0, kept = 0 }: { readonly row: number; readonly rows: number; readonly from?: number; readonly kept?: number },
  table: number,
): void {
  putSpan(words, (spans >>> 2) + index * SPAN_WORDS, row, rows, table, from);
  putSpan(words, (stores >>> 2) + index * SPAN_WORDS, row + kept, rows - kept, table, from);
}

function putSpan(words: Int32Array, at: number, row: number, rows: number, table: number, from: number): void {
  words[at + SPAN.row] = row;
  words[at + SPAN.rows] = rows;
  words[at + SPAN.table] = table;
  words[at + SPAN.from] = from;
}

export type KvPlace = {
  readonly address: number;
  readonly block_bytes: number;
  readonly layer_bytes: number;
  readonly blocks: number;
  readonly block_size: number;
  /** u32 [blocks]: who holds each (block-pool.ts). */
  readonly holders: number;
  /** u32 [blocks]: the how manieth content each has (block-pool.ts). */
  readonly generations: number;
  /** u32 [blocks] each: the sum of what lies there, and of how many positions it is (kv-sums.ts); 0: of none. */
  readonly sums: number;
  readonly filled: number;
  /** The main model's: its are the first. */
  readonly layers: number;
  /** Within a layer, of as many positions as a block has, one after the other: all of it, or a KV head's. */
  readonly run_bytes: number;
};

/** The output projection as one of the NPUs that split it has it (output-projection.ts). */
export type ProjectionPlace = {
  readonly share: TensorShare;
  /** Rows of what the heads put out, in the dispatch area, where peers pull them. A peer's are pulled to `gathered`, which has room for them. */
  readonly attended: number;
  readonly attended_row_bytes: number;
  /** By rank. */
  readonly columns: readonly ProjectedColumns[];
};

/** Columns that one NPU projects: where those of row 0 belong, `row_bytes` from row to row, bytes of a row, and where they begin in a row of the NPU's answer. */
export type ProjectedColumns = { readonly target: number; readonly bytes: number; readonly skip: number };

/** What every NPU's region has, whatever the NPU is for. */
export type DieLayout = {
  readonly npu: number;
  readonly base: number;
  readonly bytes: number;
  /** What the bytes are for. */
  readonly parts: Readonly<Record<string, number>>;
  /** Tokens of a step at most. */
  readonly rows_max: number;
  /** Of one row of activations. */
  readonly row_bytes: number;
  /** Where XCCL finds what this die offers; at the same offset in every region. */
  readonly areas: Areas;
  readonly expertSlots: ExpertSlots;
  /** How rows go to experts and come back. */
  readonly narrow: NarrowPlace;
  /** Of weights that are in no slot, by which they are known to be what was loaded (resting-weights.ts). */
  readonly weightSums: number;
};

/** Of an NPU that has nothing but experts: no attention, no KV, no steps. */
export type ExpertLayout = DieLayout & {
  readonly kind: 'experts';
  /** Weights of shared experts that it computes. */
  readonly shared: readonly WeightPiece[];
  /** Rows on their way into one expert, and out of it. */
  readonly scratch: { readonly gathered: number; readonly computed: number };
  /** Null where domains do not take turns. */
  readonly turns: ExpertTurnsPlace | null;
};

export type StepLayout = DieLayout & {
  readonly kind: 'attention';
  /** Weights that other NPUs of its rank have alike, experts' in slots left out: in the same order at each. */
  readonly replicated: readonly WeightPiece[];
  /** The expert NPU that computes the shared expert for this one; null: this one has it itself, or the model has none. */
  readonly sharedNpu: number | null;
  /** All expert NPUs that have the shared expert; none: as of `sharedNpu`. */
  readonly sharedNpus: readonly number[];
  /** Its rank in its DP group. */
  readonly share: TensorShare;
  /** Null where the output projection is this NPU's alone, or is split by the ranks of its DP group. */
  readonly projection: ProjectionPlace | null;
  /** By layer, null where it has no experts: u32 by expert id, tokens that this NPU routed to it. */
  readonly counts: readonly (number | null)[];
  readonly scratch: StepScratch;
  readonly kv: KvPlace;
  /** u32 [slots][blocks_max]: offsets of blocks. */
  readonly blockTables: { readonly address: number; readonly blocks_max: number };
  /** Of an NPU that prefills for others: what it lends. */
  readonly offers: OffersPlace;
  /** Null: nobody records. */
  readonly routing: RoutingTable | null;
  /** Of experts in turn, where those are asked; null: those that the gate chooses are. */
  readonly evenExperts: number | null;
  /** A row, then by slot the one that a second MTP layer goes on from (mtp-layout.ts); null: there is none. */
  readonly slotRows: number | null;
  /** Null where its domain does not take turns with others. */
  readonly turns: AttentionTurnsPlace | null;
  /** Of the second of two micro-batches, where steps may be that; null: they never are. */
  readonly second: SecondBatch | null;
};

/** Those of NPUs that run steps, in their order. */
export const attentionLayouts = <Layout extends { readonly kind: string }>(layouts: readonly Layout[]): Extract<Layout, { readonly kind: 'attention' }>[] =>
  layouts.filter((layout): layout is Extract<Layout, { readonly kind: 'attention' }> => layout.kind === 'attention');

export const layoutCounts = (model: ModelShape, arena: Arena): (number | null)[] =>
  Array.from({ length: layersInMemory(model) }, (_, layer) => (isMoeLayer(model, layer) ? arena.allocate(model.moe.experts * 4) : null));

/** `heads`: so many runs of positions a layer has. */
export function layoutKv(
  model: ModelShape,
  layer_bytes: number,
  heads: number,
  { kv_blocks: blocks, kv_block_size: block_size }: LayoutOptions,
  arena: Arena,
): KvPlace {
  const block_bytes = layer_bytes * layersInMemory(model);
  const address = arena.allocate(blocks * block_bytes);
  const [holders, generations, sums, filled] = Array.from({ length: 4 }, () => arena.allocate(blocks * 4)) as [number, number, number, number];
  const tables = { holders, generations, sums, filled };
  return { address, block_bytes, layer_bytes, blocks, block_size, ...tables, layers: model.layers, run_bytes: layer_bytes / heads };
}

export function layoutBlockTables(maxPositions: number, options: LayoutOptions, arena: Arena): StepLayout['blockTables'] {
  const blocks_max = Math.ceil(maxPositions / options.kv_block_size);
  return { address: arena.allocate(options.max_batch_requests * blocks_max * 4), blocks_max };
}

/** A sequence whose KV is lent computes nothing: more of them than run at once keep a decode side at work. */
const OFFERS_PER_REQUEST = 2;
export const offersOf = ({ max_batch_requests }: Pick<LayoutOptions, 'max_batch_requests'>): number => OFFERS_PER_REQUEST * max_batch_requests;

/** Where an NPU says what it lends: room for handoffs in prefill executors, and in DP groups that may be put on standby; and for prefixes wherever prompts are computed, if groups share them. */
export function layoutOffersOf(options: LayoutOptions, npu: number, blocks_max: number, arena: Arena): OffersPlace {
  const { executors } = options.deployment;
  const { executor } = attentionPlaceOf(options.deployment, npu);
  const role = executors[executor]?.role;
  const handsOver = role === 'prefill' || options.scaled_executor === executor;
  return layoutOffers(arena, (handsOver ? offersOf(options) : 0) + (role === 'decode' ? 0 : (options.loans_max ?? 0)), blocks_max);
}

/**
 * A step's tokens by destination: the rows, as they travel if that is not as they are, then the lists that say which expert computes which, and what heads put out, for NPUs that split their output
 * projection. They are the dispatch area, so nothing is staged. `attended_row_bytes`: of one of its rows.
 */
export function dispatchPlaces(model: ModelShape, row_bytes: number, options: LayoutOptions, base: number, attended_row_bytes: number) {
  const { moe } = model;
  const rows = options.max_batch_tokens;
  const arena = new Arena(base);
  const isNarrow = rowFormatsOf(options).there === 'int8';
  // A block as narrow-rows.ts has it: its rows follow its scales.
  const sentScales = arena.allocate(isNarrow ? rows * (4 + row_bytes / 4) : 0);
  const sent = sentScales + (isNarrow ? 4 * rows : 0);
  const normed = arena.allocate(rows * row_bytes);
  const pairRows = arena.allocate(rows * pairsOfRow(moe, options.deployment) * 4);
  const table = (): number => arena.allocate((slotsMax(model, options) + 1) * 8);
  const segments = table();
  const attended = arena.allocate(hasSplitProjection(options.deployment) ? rows * attended_row_bytes : 0);
  const secondSegments = hasTwoBatches(options) ? table() : 0;
  return { normed, sentScales, sent, pairRows, segments, attended, secondSegments, bytes: arena.used };
}

/** Steps may be two micro-batches, each with a lane of its own to expert NPUs that serve whoever asks. */
export const hasTwoBatches = ({ deployment, schedule, micro_batches = 1 }: Pick<LayoutOptions, 'deployment' | 'schedule' | 'micro_batches'>): boolean =>
  micro_batches > 1 && schedule !== 'domains' && isSplit(deployment);

/** Rows of a step that the first of two micro-batches has at most; the second has the others. */
export const firstBatchRows = ({ max_batch_tokens }: Pick<LayoutOptions, 'max_batch_tokens'>): number => Math.ceil(max_batch_tokens / 2);

/** What a second micro-batch has of the dispatch area: the rows, and their lists, behind those of the first. */
export function secondPlaces<Places extends Pick<ReturnType<typeof dispatchPlaces>, 'normed' | 'sentScales' | 'sent' | 'pairRows' | 'secondSegments'>>(
  { moe }: ModelShape,
  row_bytes: number,
  options: LayoutOptions,
  places: Places,
): Places & { readonly segments: number } {
  const rows = firstBatchRows(options);
  const pairRows = places.pairRows + rows * pairsOfRow(moe, options.deployment) * 4;
  const sent = { sentScales: places.sentScales + rows * 4, sent: places.sent + (rows * row_bytes) / 4 };
  return { ...places, ...sent, normed: places.normed + rows * row_bytes, pairRows, segments: places.secondSegments };
}

/** Rows of experts that one row asks for at most: the shared expert is one of them where other NPUs may compute it. */
export const pairsOfRow = ({ topK, sharedExperts }: ModelShape['moe'], deployment: Deployment): number =>
  topK + (isSplit(deployment) && sharedExperts > 0 ? 1 : 0);

/** The expert NPU that computes the shared expert for an attention NPU, if the model has one. */
export const sharedNpuFor = ({ sharedExperts }: ModelShape['moe'], deployment: Deployment, npu: number): number | null =>
  sharedExperts > 0 ? sharedExpertNpuFor(deployment, npu) : null;

/**
 * Rows that an NPU's answers take at most. Where all NPUs run steps: those of one asker, others wait for room. An expert NPU has room for all that each of its
 * executor's attention NPUs may ask of it at once.
 */
function answerRows(model: ModelShape, options: LayoutOptions, npu: number): number {
  const { moe } = model;
  const { deployment, max_batch_tokens: rows } = options;
  const executor = executorOfNpu(deployment, npu);
  const { split, experts, attention } = executor;
  if (split === undefined) return rows * moe.topK;
  if (deployment.npus[npu]?.kind === 'attention') return 0;
  const holders = moe.sharedExperts > 0 ? sharedExpertNpusOf(executor) : [];
  return attention.npus * rows * (Math.min(moe.topK, slotsOfNpu(model, options, experts)) + (holders.includes(npu) ? 1 : 0));
}

/** NPUs that may ask an expert NPU; 0 for NPUs that run steps, whose askers share what room there is. */
const askersOf = (deployment: Deployment, npu: number): number =>
  deployment.npus[npu]?.kind === 'experts' ? executorOfNpu(deployment, npu).attention.npus : 0;

/** How an NPU of such a pod exchanges tokens with others. */
export const exchangeOptions = (
  options: Pick<LayoutOptions, 'deployment' | 'schedule' | 'micro_batches' | 'row_checks'>,
  npu: number,
  rest?: SumBytes,
): ExchangeOptions => {
  const { deployment, schedule, row_checks } = options;
  const checks = rest === undefined || row_checks === 'off' ? {} : { sum: rest };
  // Rounds of domains have the lanes, and areas of their own.
  if (schedule === 'domains') return checks;
  const askers = askersOf(deployment, npu);
  return { lanes: hasTwoBatches(options) ? 2 : 1, ...checks, ...(askers > 0 && { askers }) };
};

/** `slot_bytes`: of the slots for bulk data between dies. `gather_bytes`: of the tables that ranks gather, in pods that have tensor parallelism. */
export const areaSizes = (
  model: ModelShape,
  { row_bytes, attended_row_bytes }: { readonly row_bytes: number; readonly attended_row_bytes: number },
  options: LayoutOptions,
  npu: number,
  slot_bytes: number,
  gather_bytes: number,
): AreaSizes => ({
  dies: options.dies,
  slots: 2,
  slot_bytes,
  dispatch_bytes:
    roundUp(turnDispatchBytes(model, row_bytes, options, dispatchPlaces(model, row_bytes, options, 0, attended_row_bytes).bytes), 64) + ROW_SUMS_BYTES,
  reply_bytes: takesTurns(options, npu)
    ? roundUp(turnReplyBytes(model, row_bytes, options, npu), 64)
    : // Each asker's place is a multiple as well.
      roundUp(answerRows(model, options, npu) * row_bytes, 64) + 64 * askersOf(options.deployment, npu),
  gather_bytes: roundUp(gather_bytes, 64),
  lanes: options.schedule === 'domains' ? lanesOf(options.deployment) : hasTwoBatches(options) ? 1 : 0,
});

/** KV blocks as their owner holds and frees them. */
export const kvPool = (npu: number, { holders: table, generations, address: base, block_bytes, blocks }: KvPlace): BlockPoolPlace => ({
  ...{ name: `KV of npu/${npu}`, table, generations, base, block_bytes, blocks },
});
