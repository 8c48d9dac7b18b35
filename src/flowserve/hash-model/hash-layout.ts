/**
 * What lies where in the region of an NPU whose kernels are skipped: what a step needs, with rows and cells of one hash, 8 bytes, and weights of one hash each.
 *
 *   weights    | replicated | layer 0: slots of experts | layer 1: slots | …        8 bytes each; 0 where nothing was loaded
 *   KV block   | layer 0: a cell a position | layer 1 | …
 *   columns    of NPUs that split their output projection: of each row a hash by each of them
 *   tables     that ranks gather: of each row a hash by each rank; after a layer of experts, rows of the ranks' own
 * @module
 */

import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { Arena } from '../../fabric/arena.ts';
import { layersInMemory } from '../../model/moe-layers.ts';
import { assert, MinipodError } from '../../protocol/errors.ts';
import { executorOfNpu, sharedExpertNpusOf } from '../../protocol/topology.ts';
import { type AreaSizes, layoutAreas } from '../../xccl/areas.ts';
import { plainChecksum } from '../distflow/checksum.ts';
import { withDraftLayers } from '../drafters/draft-layers.ts';
import { layoutEvenExperts } from '../experts/average-routing.ts';
import { firstMap } from '../experts/expert-routing.ts';
import { layersWithExperts, layoutSlotTables, layoutStaging, placeOfSlot, type SlotWeights, writeSlot } from '../experts/expert-slots.ts';
import { layoutRouting } from '../experts/routed-steps.ts';
import { layoutNarrow } from '../forward/narrow-rows.ts';
import { type Gathered, projectionShareOf, type TensorShare, tensorShareOf } from '../forward/tensor-share.ts';
import { layoutSlotRows } from '../layouts/mtp-layout.ts';
import { LOGIT_ROWS_MAX } from '../layouts/scratch-layout.ts';
import { layoutSecondBatch } from '../layouts/second-batch.ts';
import {
  areaSizes,
  dispatchPlaces,
  type ExpertLayout,
  type LayoutOptions,
  layoutBlockTables,
  layoutCounts,
  layoutKv,
  layoutOffersOf,
  type ModelShape,
  type ProjectionPlace,
  pairsOfRow,
  type SecondBatch,
  SPAN_WORDS,
  type StepLayout,
  type StepScratch,
  secondPlaces,
  sharedNpuFor,
} from '../layouts/step-layout.ts';
import { type AttentionTurnsPlace, layoutAttentionTurns, layoutExpertTurns } from '../layouts/turns-layout.ts';
import { type PlanOptions, type PodPlanOf, planDies } from '../pod-plan.ts';
import { holdsWeights } from '../scale-shapes.ts';
import { layoutWeightSums, RestingWeights } from '../weights/resting-weights.ts';
import type { ReadExpert } from '../weights/stored-experts.ts';
import { Hash } from './hash.ts';

/** Of a row of activations, a KV cell, an expert's weights. */
export const HASH_BYTES = 8;

/** The least that XCCL takes: each die has two for each other one, and bulk data between them is small as well. */
const SLOT_BYTES = 64;

export type HashScratch = StepScratch & { readonly sharedOut: number; readonly headRows: number } & Readonly<Record<Gathered, number>>;

export type HashLayout = StepLayout & {
  readonly scratch: HashScratch;
  readonly weights: number;
  readonly turns: (AttentionTurnsPlace & { readonly scratch: HashScratch }) | null;
  readonly second: (SecondBatch & { readonly scratch: HashScratch }) | null;
};

/** Of an expert NPU. `hasShared`: it computes the shared expert, with the replicated weights. */
export type HashExpertLayout = ExpertLayout & Pick<HashLayout, 'weights'> & { readonly hasShared: boolean };

export type HashPodPlan = PodPlanOf<ModelShape, HashLayout | HashExpertLayout>;

/**
 * A pod whose NPUs compute the hash model of a model's `shape`: any checkpoint's config, or one written down.
 * @throws `invalid_request`, `out_of_memory` as `planPod` does
 */
export function planHashPod(shape: ModelShape, options: PlanOptions): HashPodPlan {
  const model = withDraftLayers(shape, options.speculative);
  const { layers, vocabSize, maxPositions, moe } = model;
  for (const [name, value] of Object.entries({ layers, vocabSize, maxPositions, topK: moe.topK, experts: moe.experts }))
    if (!Number.isInteger(value) || value < 1) throw new MinipodError('invalid_request', `hash model: ${name} is ${value}, use a whole number from 1 on`);
  if (moe.topK > moe.experts) throw new MinipodError('invalid_request', `hash model: topK ${moe.topK} of ${moe.experts} experts, use at most that many`);
  return planDies(model, options, (layoutOptions, npu, base, bytes) => layoutHashDie(model, layoutOptions, npu, base, bytes));
}

const layoutHashDie = (model: ModelShape, options: LayoutOptions, npu: number, base: number, bytes?: number): HashLayout | HashExpertLayout =>
  options.deployment.npus[npu]?.kind === 'experts' ? layoutHashExperts(model, options, npu, base, bytes) : layoutHashNpu(model, options, npu, base, bytes);

/** Weights of its slots, layer by layer. */
function layoutWeights(model: ModelShape, options: LayoutOptions, npu: number, arena: Arena): Pick<HashLayout, 'weights' | 'expertSlots' | 'weightSums'> {
  const slotTables = layoutSlotTables(model, options, npu, arena);
  const { each, tables } = slotTables;
  const address = arena.allocate((slotTables.rank < 0 ? 1 : 1 + layersInMemory(model) * each) * HASH_BYTES);
  const weights = tables.map((table, layer): SlotWeights | null =>
    table === null ? null : { first: address + (1 + layer * each) * HASH_BYTES, stride: HASH_BYTES, bytes: HASH_BYTES },
  );
  return { weights: address, expertSlots: { ...slotTables, weights, staging: layoutStaging(options, weights, arena) }, weightSums: layoutWeightSums(1, arena) };
}

const hashAreaSizes = (model: ModelShape, options: LayoutOptions, npu: number): AreaSizes =>
  areaSizes(model, { row_bytes: HASH_BYTES, attended_row_bytes: HASH_BYTES }, options, npu, SLOT_BYTES, hashTables(options, 0).bytes);

function layoutHashExperts(model: ModelShape, options: LayoutOptions, npu: number, base: number, bytes?: number): HashExpertLayout {
  const arena = new Arena(base, bytes);
  const areas = layoutAreas(hashAreaSizes(model, options, npu), arena);
  const areasEnd = arena.used;
  const weights = layoutWeights(model, options, npu, arena);
  const weightsEnd = arena.used;
  const rows_max = options.max_batch_tokens;
  const scratch = { gathered: arena.allocate(rows_max * HASH_BYTES), computed: arena.allocate(rows_max * HASH_BYTES) };
  const turns = layoutExpertTurns(model, HASH_BYTES, options, npu, arena);
  const narrow = layoutNarrow(options, rows_max, HASH_BYTES, arena);
  const parts = { weights: weightsEnd - areasEnd, activations: arena.used - weightsEnd, 'XCCL areas': areasEnd };
  const hasShared = model.moe.sharedExperts > 0 && sharedExpertNpusOf(executorOfNpu(options.deployment, npu)).includes(npu);
  const shared = hasShared ? [{ address: weights.weights, bytes: HASH_BYTES }] : [];
  return {
    ...{ kind: 'experts', npu, base, bytes: arena.used, parts, rows_max, row_bytes: HASH_BYTES, areas, scratch, turns, ...weights, hasShared, shared, narrow },
  };
}

function layoutHashNpu(model: ModelShape, options: LayoutOptions, npu: number, base: number, bytes?: number): HashLayout {
  const { moe } = model;
  const { max_batch_tokens: rows, deployment } = options;
  const arena = new Arena(base, bytes);
  const areas = layoutAreas(hashAreaSizes(model, options, npu), arena);
  const areasEnd = arena.used;
  const counts = layoutCounts(model, arena);
  const weights = layoutWeights(model, options, npu, arena);
  const weightsEnd = arena.used;
  const hashes = (count: number): number => arena.allocate(count * HASH_BYTES);
  const { attended, bytes: own_bytes, ...dispatch } = dispatchPlaces(model, HASH_BYTES, options, areas.dispatch, HASH_BYTES);
  const projectionShare = projectionShareOf(deployment, npu);
  const scratch: HashScratch = {
    ...layoutRows(model, options, rows, dispatch, arena),
    headRows: hashes(LOGIT_ROWS_MAX),
    ...hashTables(options, areas.gather).places,
    ...(projectionShare.tp > 1 ? { attended } : {}),
  };
  const projection = projectionShare.tp > 1 ? layoutProjection(projectionShare, attended, () => hashes(rows)) : null;
  const rowsOf = (own: number, places: typeof dispatch): HashScratch => ({ ...scratch, ...layoutRows(model, options, own, places, arena) });
  const apart = (own: number): HashScratch => rowsOf(own, { ...dispatch, normed: hashes(own) });
  const turns = layoutAttentionTurns(model, HASH_BYTES, options, npu, own_bytes, scratch, apart, arena);
  const behind = (own: number): HashScratch => rowsOf(own, secondPlaces(model, HASH_BYTES, options, dispatch));
  const second = turns ?? layoutSecondBatch(model, options, npu, behind, arena);
  const slotRows = layoutSlotRows(model, options, HASH_BYTES, arena);
  const scratchEnd = arena.used;
  const kv = layoutKv(model, HASH_BYTES * options.kv_block_size, 1, options, arena);
  const kvEnd = arena.used;
  const blockTables = layoutBlockTables(model.maxPositions, options, arena);
  const offers = layoutOffersOf(options, npu, blockTables.blocks_max, arena);
  const routing = layoutRouting(model, options, arena);
  const evenExperts = layoutEvenExperts(model, options, arena);
  const parts = {
    weights: weightsEnd - areasEnd,
    'KV blocks': kvEnd - scratchEnd,
    activations: scratchEnd - weightsEnd + arena.used - kvEnd,
    'XCCL areas': areasEnd,
  };
  const share = tensorShareOf(deployment, npu);
  return {
    kind: 'attention',
    npu,
    sharedNpu: sharedNpuFor(moe, deployment, npu),
    sharedNpus: moe.sharedExperts > 0 ? sharedExpertNpusOf(executorOfNpu(deployment, npu)) : [],
    replicated: [{ address: weights.weights, bytes: HASH_BYTES }],
    share,
    projection,
    base,
    bytes: arena.used,
    parts,
    rows_max: rows,
    row_bytes: HASH_BYTES,
    areas,
    counts,
    scratch,
    kv,
    blockTables,
    offers,
    routing,
    evenExperts,
    slotRows,
    turns,
    second,
    narrow: layoutNarrow(options, rows, HASH_BYTES, arena),
    ...weights,
  };
}

/** What there is of each row of a step. */
function layoutRows(
  { moe }: ModelShape,
  { deployment }: LayoutOptions,
  rows: number,
  { normed, sentScales, sent, pairRows, segments }: Pick<StepScratch, 'normed' | 'sentScales' | 'sent' | 'pairRows' | 'segments'>,
  arena: Arena,
): StepScratch & { readonly sharedOut: number } {
  const hashes = (count: number): number => arena.allocate(count * HASH_BYTES);
  const words = (count: number): number => arena.allocate(count * 4);
  return {
    tokenIds: words(rows),
    positions: words(rows),
    spans: words(rows * SPAN_WORDS),
    stores: words(rows * SPAN_WORDS),
    x: hashes(rows),
    ...{ normed, sentScales, sent },
    experts: words(rows * moe.topK),
    expertWeights: words(rows * moe.topK),
    rowIndices: words(rows * moe.topK),
    pairRows,
    segments,
    replies: hashes(rows * pairsOfRow(moe, deployment)),
    gathered: hashes(rows),
    sharedOut: hashes(rows),
  };
}

/** Each NPU's answers are rows of a table of their own. */
function layoutProjection(share: TensorShare, attended: number, table: () => number): ProjectionPlace {
  const columns = Array.from({ length: share.tp }, () => ({ target: table(), bytes: HASH_BYTES, skip: 0 }));
  return { share, attended, attended_row_bytes: HASH_BYTES, columns };
}

/** The tables fill the gather area; without tensor parallelism there are none. */
function hashTables(
  { deployment, max_batch_tokens: rows }: LayoutOptions,
  base: number,
): { readonly places: Record<Gathered, number>; readonly bytes: number } {
  const arena = new Arena(base);
  const tp = Math.max(...deployment.executors.map((executor) => executor.tp));
  const table = (count: number): number => arena.allocate(tp > 1 ? count * HASH_BYTES : 0);
  const [attended, projected, activated] = [table(rows * tp), table(rows * tp), table(rows * tp)];
  return { places: { attended, projected, activated, rows: table(rows), logits: table(LOGIT_ROWS_MAX * tp) }, bytes: arena.used };
}

/** The layout of an NPU that moves to another die. */
export function hashLayoutOnDie(plan: HashPodPlan, npu: number, die: number): HashLayout | HashExpertLayout {
  const region = plan.dies[die];
  assert(region, `there is no die ${die}`);
  return layoutHashDie(plan.config, plan.options, npu, region.base, region.bytes);
}

const KIND = { replicated: 1, expert: 2 } as const;

/**
 * "Loads" an NPU's weights: hashes of what they are and of `version`, a 32-bit number that stands for the checkpoint. Counts begin at 0.
 * An NPU whose weights were not loaded, or are of another version, computes other tokens. `map`: what slots hold; `holds`: it has more than slots.
 */
export function loadHashWeights(
  { config, options, hosting }: HashPodPlan,
  layout: HashLayout | HashExpertLayout,
  space: AddressSpace,
  version: number,
  map = firstMap(config, options, executorOfNpu(hosting.deployment, layout.npu)),
  holds = holdsWeights(hosting, layout.npu),
): void {
  const { weights, expertSlots } = layout;
  const words = space.wordsOf(weights);
  const hash = new Hash();
  const checksum = plainChecksum(space);
  if (holds) {
    hash.begin(KIND.replicated, version, 0);
    hash.write(words, offsetOf(weights) >>> 2);
  }
  for (const [index, layer] of (expertSlots.rank < 0 ? [] : layersWithExperts(config)).entries()) {
    for (let slot = 0; slot < expertSlots.each; slot++) {
      const expert = map.expertOfSlot[index * expertSlots.total + expertSlots.rank * expertSlots.each + slot] as number;
      const { address, bytes } = placeOfSlot(expertSlots, layer, slot);
      if (expert >= 0) writeHashExpert(hash, space, version, layer, expert, address);
      writeSlot(words, expertSlots, layer, slot, expert, 0, checksum.sum(0, address, bytes));
    }
  }
  if (holds) new RestingWeights(layout, space, checksum).take();
  if (layout.kind === 'attention') for (const address of layout.counts) if (address !== null) space.bytesAt(address, config.moe.experts * 4).fill(0);
}

function writeHashExpert(hash: Hash, space: AddressSpace, version: number, layer: number, expert: number, to: number): void {
  hash.begin(KIND.expert, layer, expert);
  hash.absorb(version, 0);
  hash.write(space.wordsOf(to), offsetOf(to) >>> 2);
}

/** One expert's weights, as a checkpoint has them. */
export function storedHashExperts(space: AddressSpace, version: number): ReadExpert {
  const hash = new Hash();
  return function* (_, { layer, expert, to }) {
    yield writeHashExpert(hash, space, version, layer, expert, to);
  };
}
