/**
 * What NPUs whose domains take turns have beside what others have: an attention NPU the scratch of a second micro-batch, an expert NPU room for what it receives on
 * each lane; both, of each lane, who takes part in its exchange and what of the areas is its (dp-domains.ts).
 * @module
 */
import type { Arena } from '../../fabric/arena.ts';
import { draftLayersOfRound, moeLayersOf } from '../../model/moe-layers.ts';
import { assert } from '../../protocol/errors.ts';
import { sharedExpertNpusOf } from '../../protocol/topology.ts';
import { type CollectMemory, layoutCollectMemory } from '../../xccl/combine.ts';
import { layoutReceiveMemory, type ReceiveMemory } from '../../xccl/dispatch.ts';
import type { DpDomainPlace } from '../../xccl/dp-domain.ts';
import type { Extent } from '../../xccl/parts.ts';
import { layoutRound, type RoundScratch } from '../experts/round-experts.ts';
import { layoutRouting, type RoutingTable } from '../experts/routed-steps.ts';
import {
  batchRows,
  type DpDomainOf,
  dpDomainsOfNpu,
  expertRankOf,
  extentsOf,
  laneIndex,
  MICRO_BATCHES,
  pairsOfRowIn,
  ranksOfPlaces,
  receivedMax,
  sharedIdOf,
  takesTurns,
} from './dp-domains.ts';
import { type LayoutOptions, type ModelShape, type StepScratch, sharedNpuFor } from './step-layout.ts';

/** One exchange of a domain, as an NPU takes part in it. */
export type ExchangePlace = {
  readonly domain: DpDomainPlace;
  readonly lane: number;
  readonly rank_of_expert: readonly number[];
  readonly dispatch: Extent;
  readonly reply: Extent;
};

export type MicroBatchPlace = ExchangePlace & {
  /** u32 [rows, pairs of a row]: which experts each row asks for, in which slots, the shared one the last of them if another NPU has it. */
  readonly ids: number;
  readonly collect: CollectMemory;
};

export type SharedPlace = { readonly npu: number; readonly id: number; readonly rank: number };

export type AttentionTurnsPlace = {
  /** Of the second micro-batch. */
  readonly scratch: StepScratch;
  /** What its gates have chosen, if anybody records that. */
  readonly routing: RoutingTable | null;
  readonly batches: readonly MicroBatchPlace[];
  /** Of each micro-batch in an iteration: layers of experts, those of drafts among them. */
  readonly rounds: number;
  /** NPUs that have the shared expert, the one that is asked first: by which id rows ask for it, and which of the domain's expert NPUs it is. Empty: no other NPU has it. */
  readonly shared: readonly SharedPlace[];
};

export type ExpertTurnsPlace = {
  /** In turn: by micro-batch, of each by domain. */
  readonly lanes: readonly (ExchangePlace & { readonly receive: ReceiveMemory })[];
  /** Layers of experts, as the rounds of an iteration go through them. */
  readonly layers: readonly number[];
  readonly round: RoundScratch;
};

const exchangeOf = (
  model: ModelShape,
  row_bytes: number,
  options: LayoutOptions,
  domain: DpDomainOf,
  microBatch: number,
  own_bytes: number,
): ExchangePlace => ({
  domain: domain.place,
  lane: laneIndex(domain, microBatch),
  rank_of_expert: ranksOfPlaces(model, options, domain),
  ...extentsOf(model, row_bytes, options, domain, microBatch, own_bytes),
});

/**
 * Null: the NPU's domain takes no turns. `own_bytes`: what steps have of the dispatch area. `first`: scratch of the first micro-batch; the second's is laid out if
 * it is needed.
 */
export function layoutAttentionTurns<Scratch extends StepScratch>(
  model: ModelShape,
  row_bytes: number,
  options: LayoutOptions,
  npu: number,
  own_bytes: number,
  first: Scratch,
  layoutSecond: (rows: number) => Scratch,
  arena: Arena,
): (AttentionTurnsPlace & { readonly scratch: Scratch }) | null {
  if (!takesTurns(options, npu)) return null;
  const [domain] = dpDomainsOfNpu(options.deployment, npu);
  assert(domain, `NPU ${npu} is in no DP domain`);
  const rows = batchRows(options);
  const top_k = pairsOfRowIn(model, domain.executor);
  const scratch = layoutSecond(rows);
  const batches = [first, scratch].map(({ replies }, microBatch) => ({
    ...exchangeOf(model, row_bytes, options, domain, microBatch, own_bytes),
    ids: arena.allocate(4 * rows * top_k),
    collect: layoutCollectMemory(rows, top_k, row_bytes / 4, arena, replies),
  }));
  const holder = sharedNpuFor(model.moe, options.deployment, npu);
  const holders = holder === null ? [] : [holder, ...sharedExpertNpusOf(domain.executor).filter((other) => other !== holder)];
  const shared = holders.map((of) => ({ npu: of, id: sharedIdOf(model, options, domain.executor, of), rank: expertRankOf(domain, of) }));
  const routing = layoutRouting(model, { ...options, max_batch_tokens: rows }, arena);
  return { scratch, routing, batches, rounds: roundLayers(model, options).length, shared };
}

/** The model's layers of experts, then those that rows go through for each token that is drafted at most. */
const roundLayers = (model: ModelShape, { speculative }: LayoutOptions): number[] => [
  ...moeLayersOf({ layers: model.layers, moe: model.moe }),
  ...Array.from({ length: model.draftLayers === undefined ? 0 : (speculative?.tokens ?? 0) }, (_, index) => draftLayersOfRound(model, index)).flat(),
];

export function layoutExpertTurns(model: ModelShape, row_bytes: number, options: LayoutOptions, npu: number, arena: Arena): ExpertTurnsPlace | null {
  if (!takesTurns(options, npu)) return null;
  const domains = dpDomainsOfNpu(options.deployment, npu);
  const { rows, pairs } = receivedMax(model, options, (domains[0] as DpDomainOf).executor);
  const lanes = Array.from({ length: MICRO_BATCHES }, (_, microBatch) =>
    domains.map((domain) => ({
      ...exchangeOf(model, row_bytes, options, domain, microBatch, 0),
      receive: layoutReceiveMemory(rows, pairs, row_bytes / 4, arena),
    })),
  ).flat();
  return { lanes, layers: roundLayers(model, options), round: layoutRound(pairs, row_bytes, options, arena) };
}
