/**
 * The DP domains of a deployment (xDeepServe §5.2), where they take turns at the experts, and what each of their exchanges takes of a die's areas.
 *
 *   lane     2 × domain of the executor + micro-batch
 *
 *   dispatch area    attention NPU  | a step's own (step-layout.ts) | package of micro-batch 0 | of 1 |
 *                    expert NPU     | package of lane 0 that it forwards | of lane 1 | …
 *   reply area       expert NPU     | answers, and a bundle of them, of lane 0 | of lane 1 | …
 *
 * A domain's attention NPU i has the expert NPU as its trampoline that comes i after the domain's first: the trampolines of domains are spread over the expert NPUs.
 * With more attention NPUs in a domain than there are expert NPUs each tells all of them (xccl/naive-fan-out.ts). Expert NPUs that stand by take part with nothing; those that
 * are lost take no part, so that what the areas hold suits any number of them.
 *
 *   id               | expert | slot of the group, behind these one for each NPU that has the shared expert |     of a pair, on its way (xccl/token-routing.ts)
 * @module
 */
import { roundUp } from '../../fabric/address.ts';
import { assert } from '../../protocol/errors.ts';
import { type Deployment, domainsOf, type Executor, executorOfNpu, sharedExpertNpusOf } from '../../protocol/topology.ts';
import type { A2EForm } from '../../xccl/a2e.ts';
import type { DpDomainLife, DpDomainPlace } from '../../xccl/dp-domain.ts';
import { bundleBytesMax, type Extent, packageBytesMax, repliesBytesMax } from '../../xccl/parts.ts';
import { NAME_SHIFT } from '../../xccl/token-routing.ts';
import { BLOCK_ALIGNMENT } from '../../xccl/wire-format.ts';
import { slotsOfGroup, slotsOfNpu } from '../experts/expert-slots.ts';
import { rowFormatsOf } from '../forward/narrow-rows.ts';
import type { LayoutOptions, ModelShape } from './step-layout.ts';

/** Of a step: while one is at the experts the other is at attention. */
export const MICRO_BATCHES = 2;

export type DpDomainOf = {
  readonly place: DpDomainPlace;
  readonly executor: Executor;
  /** Of the executor's. */
  readonly index: number;
};

/** With more attention NPUs in a domain than there are expert NPUs each tells all of them. */
export const formOf = ({ attention, experts }: DpDomainLife): A2EForm => (attention <= experts ? 'trampoline' : 'naive');

/** Whether an NPU's domain takes turns with others, or it is one of the experts' at which they do. */
export const takesTurns = ({ schedule, deployment }: Pick<LayoutOptions, 'schedule' | 'deployment'>, npu: number): boolean =>
  schedule === 'domains' && executorOfNpu(deployment, npu).split !== undefined;

/** Of all split executors, numbered through. */
export function dpDomainsOf({ executors, groups }: Deployment): readonly DpDomainOf[] {
  const domains: DpDomainOf[] = [];
  for (const executor of executors) {
    if (executor.split === undefined) continue;
    const { first, npus } = executor.experts;
    for (const [index, ids] of domainsOf(executor).entries()) {
      const attention = ids.flatMap((id) => groups[id]?.npus ?? []);
      const experts = Array.from({ length: npus }, (_, rank) => first + ((rank + index * attention.length) % npus));
      domains.push({ place: { id: domains.length, attention, experts }, executor, index });
    }
  }
  return domains;
}

/** Those that an NPU takes part in: one of an attention NPU, all of its executor of an expert NPU. */
export const dpDomainsOfNpu = (deployment: Deployment, npu: number): readonly DpDomainOf[] =>
  dpDomainsOf(deployment).filter(({ place: { attention, experts } }) => attention.includes(npu) || experts.includes(npu));

export const lanesOf = ({ executors }: Deployment): number => MICRO_BATCHES * Math.max(0, ...executors.map(({ split }) => split?.domains ?? 0));
export const laneIndex = ({ index }: DpDomainOf, microBatch: number): number => MICRO_BATCHES * index + microBatch;

/** Rows of a micro-batch at most. */
export const batchRows = ({ max_batch_tokens }: Pick<LayoutOptions, 'max_batch_tokens'>): number => Math.ceil(max_batch_tokens / MICRO_BATCHES);

const sharedHoldersOf = ({ moe }: ModelShape, executor: Executor): readonly number[] => (moe.sharedExperts > 0 ? sharedExpertNpusOf(executor) : []);

/** Expert rows that a row asks for. */
export const pairsOfRowIn = (model: ModelShape, executor: Executor): number => model.moe.topK + (sharedHoldersOf(model, executor).length > 0 ? 1 : 0);

/** Of an expert NPU among the domain's expert ranks. */
export const expertRankOf = ({ place, executor: { experts }, index }: DpDomainOf, npu: number): number =>
  (npu - experts.first - ((index * place.attention.length) % experts.npus) + experts.npus) % experts.npus;

/** By slot of the group, then for each NPU that has the shared expert: its rank among the domain's expert ranks. */
export const ranksOfPlaces = (model: ModelShape, options: LayoutOptions, domain: DpDomainOf): number[] => {
  const { executor } = domain;
  const { first } = executor.experts;
  const rankOf = (npu: number): number => expertRankOf(domain, npu);
  const each = slotsOfNpu(model, options, executor.experts);
  const routed = Array.from({ length: slotsOfGroup(model, options, executor.experts) }, (_, slot) => rankOf(first + Math.floor(slot / each)));
  return [...routed, ...sharedHoldersOf(model, executor).map(rankOf)];
};

/** By which a row asks for an expert in a slot of the group. */
export const pairId = (expert: number, slot: number): number => (expert << NAME_SHIFT) | slot;

/** The id by which rows ask for the shared expert of an NPU that has it. */
export function sharedIdOf(model: ModelShape, options: LayoutOptions, executor: Executor, holder: number): number {
  const index = sharedHoldersOf(model, executor).indexOf(holder);
  assert(index >= 0, `NPU ${holder} does not have the shared expert`);
  return pairId(model.moe.experts, slotsOfGroup(model, options, executor.experts) + index);
}

// ── Sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What an expert NPU receives in one round at most, of one domain. */
export function receivedMax(model: ModelShape, options: LayoutOptions, executor: Executor): { readonly rows: number; readonly pairs: number } {
  const { dp, split, experts } = executor;
  const rows = (dp / (split?.domains ?? 1)) * batchRows(options);
  const perRow = Math.min(model.moe.topK, slotsOfNpu(model, options, experts)) + (sharedHoldersOf(model, executor).length > 0 ? 1 : 0);
  return { rows, pairs: rows * perRow };
}

const packageBytes = (model: ModelShape, row_bytes: number, options: LayoutOptions, executor: Executor): number =>
  roundUp(packageBytesMax(rowFormatsOf(options).there, batchRows(options), pairsOfRowIn(model, executor), executor.experts.npus, row_bytes / 4), 64);

function answerBytes(model: ModelShape, row_bytes: number, options: LayoutOptions, executor: Executor): number {
  const { dp, split, experts } = executor;
  const { pairs } = receivedMax(model, options, executor);
  const { back } = rowFormatsOf(options);
  const bundle = bundleBytesMax(back, batchRows(options) * pairsOfRowIn(model, executor), experts.npus, row_bytes / 4);
  return roundUp(repliesBytesMax(back, pairs, dp / (split?.domains ?? 1), row_bytes / 4) + bundle, 64);
}

const splitExecutors = ({ executors }: Deployment): readonly Executor[] => executors.filter(({ split }) => split !== undefined);

/** Of every die's dispatch area; `own_bytes`: what steps have of it. */
export function turnDispatchBytes(model: ModelShape, row_bytes: number, options: LayoutOptions, own_bytes: number): number {
  if (options.schedule !== 'domains') return own_bytes;
  const sizes = splitExecutors(options.deployment).map((executor) => {
    const bytes = packageBytes(model, row_bytes, options, executor);
    return Math.max(roundUp(own_bytes, 64) + MICRO_BATCHES * bytes, MICRO_BATCHES * (executor.split?.domains ?? 0) * bytes);
  });
  return Math.max(own_bytes, ...sizes);
}

/** Of an expert NPU's reply area. */
export function turnReplyBytes(model: ModelShape, row_bytes: number, options: LayoutOptions, npu: number): number {
  const executor = executorOfNpu(options.deployment, npu);
  if (options.deployment.npus[npu]?.kind === 'attention') return 0;
  return MICRO_BATCHES * (executor.split?.domains ?? 0) * answerBytes(model, row_bytes, options, executor);
}

/** What one exchange has of an NPU's areas. `own_bytes`: what steps have of the dispatch area; 0 of an expert NPU. */
export function extentsOf(
  model: ModelShape,
  row_bytes: number,
  options: LayoutOptions,
  domain: DpDomainOf,
  microBatch: number,
  own_bytes: number,
): { readonly dispatch: Extent; readonly reply: Extent } {
  const { executor } = domain;
  const package_bytes = packageBytes(model, row_bytes, options, executor);
  const reply_bytes = answerBytes(model, row_bytes, options, executor);
  const lane = laneIndex(domain, microBatch);
  if (own_bytes > 0) return { dispatch: { offset: roundUp(own_bytes, 64) + microBatch * package_bytes, bytes: package_bytes }, reply: { offset: 0, bytes: 0 } };
  assert(reply_bytes % BLOCK_ALIGNMENT === 0, 'extents begin where blocks do');
  return { dispatch: { offset: lane * package_bytes, bytes: package_bytes }, reply: { offset: lane * reply_bytes, bytes: reply_bytes } };
}
