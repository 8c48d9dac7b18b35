/**
 * The pod before it exists: what memory it needs, what lies where, who lives on which thread. A plain value that every thread is given.
 * @module
 */
import { totalmem } from 'node:os';
import type { CacheCosts } from '../../actors/policies/cache-costs.ts';
import type { BalancerSettings } from '../../actors/policies/map-plans.ts';
import type { Balancing } from '../../actors/policies/placement.ts';
import { PREFIX_LOANS_MAX } from '../../actors/policies/prefix-loans.ts';
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { planRings, type RingPlace } from '../fabric/links.ts';
import { type MemoryPlan, planMemory, type Region, type RegionRequest } from '../fabric/memory-plan.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { numericsOf } from '../protocol/numerics.ts';
import type { Recovery } from '../protocol/recovery.ts';
import type { RoleSwitching } from '../protocol/role-switch.ts';
import type { KvChecks, RowChecks, WeightCheck } from '../protocol/steps.ts';
import { type Deployment, deploy, type KvFabric, type Schedule, type Topology } from '../protocol/topology.ts';
import { dealtOutByKind, diesOf, type Hosting, type Scaled } from '../runtime/directory.ts';
import type { Areas } from '../xccl/areas.ts';
import type { OfferSource } from './distflow/registration.ts';
import { withDraftLayers } from './drafters/draft-layers.ts';
import { type ExpertNpuLayout, layoutExpertNpu } from './layouts/expert-layout.ts';
import { type Dtypes, layoutNpu, type NpuLayout } from './layouts/npu-layout.ts';
import { attentionLayouts, type ExpertLayout, type LayoutOptions, type MicroBatchCount, type ModelShape, type StepLayout } from './layouts/step-layout.ts';
import { checkOptions, checkSplits, KV_LEASE_MS, LONG_PROMPT_TOKENS } from './option-checks.ts';
import { ringPairs } from './pod-rings.ts';
import { RecordTable } from './records/record-table.ts';
import { recordsBytes } from './records/request-records.ts';
import { isPlaceOfSwitch } from './role-seats.ts';
import { isServing, largestTopology, type ScaleMax, type ScaleMin } from './scale-shapes.ts';

export type PlanOptions = Omit<LayoutOptions, 'kv_blocks' | 'dies' | 'deployment'> & {
  readonly topology: Topology;
  /** By NPU: the worker that hosts it. Default: contiguous runs of nearly equal length, of NPUs with attention and of those with experts only. */
  readonly npu_workers?: readonly number[] | undefined;
  readonly workers: number;
  readonly spare_workers: number;
  /** What is done where a worker is lost; missing: it alone begins anew. */
  readonly recovery?: Recovery | undefined;
  /** Whether a lost worker has a successor, missing: it has; and how long that is waited for before experts are loaded elsewhere. */
  readonly respawn?: boolean | undefined;
  readonly degraded?: boolean | undefined;
  readonly rehome_after_ms?: number | undefined;
  /** Whether attention NPUs take the roles of lost expert NPUs; missing: by the size of the EP group. */
  readonly role_switch?: RoleSwitching | undefined;
  readonly job_executors: number;
  /** Missing: its shape does not change. Else the topology is the one that it begins with. */
  readonly scale_max?: ScaleMax | undefined;
  readonly scale_min?: ScaleMin | undefined;
  /** Choices that the pod holds at most. */
  readonly max_queued: number;
  readonly kv_blocks: number | undefined;
  readonly segment_bytes: number;
  readonly memory_bytes: number | undefined;
  /** Blocks of host DRAM below each NPU's HBM, missing: none; what moving them costs against computing anew, and how fast they move. */
  readonly dram_blocks?: number;
  readonly cache_costs?: CacheCosts | null;
  readonly dram_bytes_per_s?: number | undefined;
  /** Whether sequences begin with the KV of others that began alike. */
  readonly prefix_caching: boolean;
  /** Whether DP groups take the KV of prefixes from others; missing: they do not. And how fast it moves. */
  readonly prefix_sharing?: boolean;
  readonly link_bytes_per_s?: number | undefined;
  /** Whether steps are planned while their predecessors run. */
  readonly async_scheduling: boolean;
  readonly scheduling_policy: 'priority' | 'fcfs';
  /** How a task executor chooses among its DP groups; `auto`: as suits its role. */
  readonly load_balancing: 'auto' | Balancing;
  /** So many DP groups of an executor are for prompts of so many tokens or more. */
  readonly long_prompt_groups: number;
  readonly long_prompt_tokens?: number | undefined;
  /** How long KV is lent; and whether it is lent when it is computed, or while it is. */
  readonly kv_lease_ms?: number | undefined;
  /** Whether experts have redundant slots, and are moved and replicated as they are asked for; missing: each stays in its one place. */
  readonly expert_balancing?: ExpertBalancing | undefined;
  /** For measurements alone: experts are asked in turn, whatever the gate chooses. Missing: they are not. */
  readonly average_routing?: boolean | undefined;
  /** What joins task executors. Missing: the memory that they share. */
  readonly kv_fabric?: KvFabric;
  readonly kv_transfer: 'request' | 'layer';
  /** Whether KV is looked at where it rests (kv-sums.ts). Missing: it is. */
  readonly kv_checks?: KvChecks | undefined;
  /** The same of rows on their way (xccl/row-sums.ts). */
  readonly row_checks?: RowChecks | undefined;
  /** The same of weights (weight-checks.ts); missing: nobody looks. */
  readonly weight_checks?: WeightCheck | undefined;
  readonly weight_scrub_s?: number | undefined;
  /** How attention NPUs and expert NPUs take turns. Missing: as is best. */
  readonly schedule?: Schedule | undefined;
  /** Into so many micro-batches a step is cut, where attention and experts are apart; missing: as is best. */
  readonly micro_batches?: MicroBatchCount | undefined;
  /** What ids stand for takes so many bytes of shared memory. Missing: whoever needs to know has the tokenizer. */
  readonly vocabulary_bytes?: number;
  /** Of the hash model: `ModelShape.foreseeable`. */
  readonly hash_foreseeable?: number | undefined;
  /** False: all actors live on one thread, as on a virtual clock, which needs no rings. Else it has them. */
  readonly has_rings?: boolean;
};

export type ExpertBalancing = BalancerSettings & {
  /** In each layer, beyond one for each expert. */
  readonly redundant_slots: number;
  readonly period_ms: number;
  /** Over which an executor's NPUs are spread, for the hierarchical policy. */
  readonly nodes: number;
};

/** The gate of a real model may choose among groups of experts. */
function expertOptions(config: ModelShape, options: PlanOptions): Partial<LayoutOptions> {
  const { expert_balancing: balancing, redundant_experts, expert_maps } = options;
  // Without a loop that moves experts, slots hold what they are given, to the end.
  const given = { ...(redundant_experts !== undefined && { redundant_experts }), ...(expert_maps !== undefined && { expert_maps }) };
  if (balancing === undefined) return given;
  const { moe } = config as Partial<ModelConfig>;
  const groups = moe !== undefined && 'gating' in moe && moe.gating.kind === 'sigmoid' ? moe.gating.groups : 1;
  const mirrored = balancing.policy === 'mirrored' && { mirrors_experts: true };
  return { ...given, redundant_experts: balancing.redundant_slots, expert_nodes: { nodes: balancing.nodes, groups }, ...mirrored };
}

/** `Model` and `Layout`: what the arithmetic of its NPUs needs. */
export type PodPlanOf<Model extends ModelShape, Layout extends StepLayout | ExpertLayout> = {
  readonly config: Model;
  readonly npus: number;
  readonly workers: number;
  readonly hosting: Hosting;
  readonly memory: MemoryPlan;
  readonly rings: readonly RingPlace[];
  /** By NPU, on the die that it has at first. */
  readonly layouts: readonly Layout[];
  /** By die, spares included. */
  readonly dies: readonly Region[];
  /** By die: its host DRAM, where there is such a tier. */
  readonly drams: readonly Region[];
  readonly options: LayoutOptions & {
    readonly dram_blocks: number;
    readonly cache_costs: CacheCosts | null;
    readonly kv_fabric: KvFabric;
    readonly prefix_sharing: boolean;
    readonly long_prompt_tokens: number;
    readonly kv_lease_ms: number;
  } & Pick<
      PlanOptions,
      | 'prefix_caching'
      | 'dram_bytes_per_s'
      | 'link_bytes_per_s'
      | 'schedule'
      | 'async_scheduling'
      | 'scheduling_policy'
      | 'load_balancing'
      | 'long_prompt_groups'
      | 'kv_transfer'
      | 'kv_checks'
      | 'weight_checks'
      | 'weight_scrub_s'
      | 'max_queued'
      | 'expert_balancing'
    >;
};
export type PodPlan = PodPlanOf<ModelConfig, NpuLayout | ExpertNpuLayout>;
export type AnyPodPlan = PodPlanOf<ModelShape, StepLayout | ExpertLayout>;

/** The layout of an NPU in a region of `bytes` from `base`; without `bytes`, to learn how many it needs. */
type LayOut<Layout> = (options: LayoutOptions, npu: number, base: number, bytes?: number) => Layout;

/** Requests of full length that an NPU's KV blocks hold if nothing else is said. */
const FULL_REQUESTS = 8;
const TOKENS_PER_WAITING = 128;

/** @throws `invalid_request` for options that contradict one another, `out_of_memory` with the sum shown. */
export function planPod(checkpoint: Checkpoint, options: PlanOptions): PodPlan {
  const config = withDraftLayers(checkpoint.config, options.speculative);
  const dtypeOf = dtypeIn(checkpoint);
  checkSplits(config, options.topology);
  return planDies(config, options, (layoutOptions, npu, base, bytes) => layoutDie(config, dtypeOf, layoutOptions, npu, base, bytes));
}

const layoutDie = (config: ModelConfig, dtypeOf: Dtypes, options: LayoutOptions, npu: number, base: number, bytes?: number): NpuLayout | ExpertNpuLayout =>
  options.deployment.npus[npu]?.kind === 'experts'
    ? layoutExpertNpu(config, dtypeOf, options, npu, base, bytes)
    : layoutNpu(config, dtypeOf, options, npu, base, bytes);

/** A plan for NPUs of any arithmetic. @throws as `planPod` does */
export function planDies<Model extends ModelShape, Layout extends StepLayout | ExpertLayout>(
  config: Model,
  options: PlanOptions,
  layOut: LayOut<Layout>,
): PodPlanOf<Model, Layout> {
  const { workers, spare_workers, job_executors, max_queued } = options;
  const { topology, scaled } = largestTopology(options.topology, options.scale_max, options.scale_min);
  const deployment = deploy(topology, scaled?.experts == null ? null : { executor: scaled.executor, ...scaled.experts });
  const npus = deployment.npus.length;
  checkOptions(config, deployment, { ...options, topology });
  const hosting: Hosting = {
    deployment,
    workers,
    spare_workers,
    ...(options.recovery !== undefined && { recovery: options.recovery }),
    ...(options.respawn === false && { respawn: false }),
    ...(options.degraded === true && { degraded: true }),
    ...(options.rehome_after_ms !== undefined && { rehome_after_ms: options.rehome_after_ms }),
    ...(options.role_switch !== undefined && { role_switch: options.role_switch }),
    job_executors,
    worker_of_npu: workersOf(deployment, scaled, workers, options.npu_workers),
    ...(scaled !== null && { scaled }),
  };
  const blocksOfRequest = Math.ceil(config.maxPositions / options.kv_block_size);
  // Who keeps nothing has nothing to share.
  const prefix_sharing = options.prefix_sharing === true && options.prefix_caching;
  const layoutOptions: LayoutOptions = {
    deployment,
    dies: diesOf(hosting),
    kv_blocks: options.kv_blocks ?? FULL_REQUESTS * blocksOfRequest,
    kv_block_size: options.kv_block_size,
    ...numericsOf(options),
    max_batch_tokens: options.max_batch_tokens,
    max_batch_requests: options.max_batch_requests,
    enforce_eager: options.enforce_eager,
    ...(options.records_routing && { records_routing: true }),
    ...(options.average_routing && { average_routing: true }),
    ...(prefix_sharing && { loans_max: PREFIX_LOANS_MAX }),
    ...expertOptions(config, options),
    ...(scaled !== null && { scaled_executor: scaled.executor }),
    ...(options.schedule !== undefined && { schedule: options.schedule }),
    ...(options.micro_batches !== undefined && { micro_batches: options.micro_batches }),
    ...(options.row_checks !== undefined && { row_checks: options.row_checks }),
    ...(options.speculative !== undefined && { speculative: options.speculative }),
  };
  const { dram_blocks = 0, cache_costs = null, kv_fabric = 'memory' } = options;
  const planned = planRings(options.has_rings === false ? [] : ringPairs(hosting, config.maxPositions), 0);
  const sizes = Array.from({ length: npus }, (_, npu) => layOut(layoutOptions, npu, 0));
  const spare_bytes = Math.max(...sizes.map(({ bytes }) => bytes));
  const spareDie = { bytes: spare_bytes, parts: { 'spare dies': spare_bytes } };
  // With spares, any NPU may come to lie on any die; with role switches, any one of its executor on an attention NPU's.
  const ofExecutor = (npu: number): number =>
    Math.max(...sizes.flatMap(({ bytes }, other) => (deployment.npus[other]?.executor === deployment.npus[npu]?.executor ? [bytes] : [])));
  const dieBytes = (npu: number, bytes: number): number =>
    spare_workers > 0 ? spare_bytes : options.has_rings !== false && isPlaceOfSwitch(hosting, layoutOptions, npu) ? ofExecutor(npu) : bytes;
  const memory = planMemory(
    [
      { owner: 'pod', kind: 'rings', bytes: planned.bytes },
      ...sizes.map(({ bytes, parts }, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: dieBytes(npu, bytes), parts })),
      ...Array.from({ length: layoutOptions.dies - npus }, (_, spare) => ({ owner: `die/${npus + spare}`, kind: 'hbm' as const, ...spareDie })),
      ...(dram_blocks === 0 ? [] : dramRequests(attentionLayouts<StepLayout | ExpertLayout>(sizes), npus, dram_blocks, layoutOptions.dies)),
      {
        owner: 'pod',
        kind: 'records',
        bytes: recordsBytes(max_queued, recordedTokens(layoutOptions, attentionLayouts<StepLayout | ExpertLayout>(sizes).length, max_queued)),
      },
      ...(options.vocabulary_bytes === undefined ? [] : [{ owner: 'pod', kind: 'vocabulary' as const, bytes: options.vocabulary_bytes }]),
    ],
    options.segment_bytes,
    options.memory_bytes ?? Math.floor(totalmem() * 0.75),
  );
  const dies = memory.regions.filter(({ kind }) => kind === 'hbm');
  const ringsAt = offsetOf(memory.regions.find(({ kind }) => kind === 'rings')?.base ?? 0);
  return {
    config,
    npus,
    workers,
    memory,
    rings: planned.rings.map((ring) => ({ ...ring, offset: ring.offset + ringsAt })),
    hosting,
    layouts: dies.slice(0, npus).map(({ base, bytes }, npu) => layOut(layoutOptions, npu, base, bytes)),
    dies,
    drams: memory.regions.filter(({ kind }) => kind === 'dram'),
    options: {
      ...layoutOptions,
      dram_blocks,
      cache_costs,
      prefix_caching: options.prefix_caching,
      scheduling_policy: options.scheduling_policy,
      load_balancing: options.load_balancing,
      long_prompt_groups: options.long_prompt_groups,
      long_prompt_tokens: options.long_prompt_tokens ?? LONG_PROMPT_TOKENS,
      kv_lease_ms: options.kv_lease_ms ?? KV_LEASE_MS,
      kv_fabric,
      prefix_sharing,
      dram_bytes_per_s: options.dram_bytes_per_s,
      link_bytes_per_s: options.link_bytes_per_s,
      schedule: options.schedule,
      kv_transfer: options.kv_transfer,
      kv_checks: options.kv_checks,
      weight_checks: options.weight_checks,
      weight_scrub_s: options.weight_scrub_s,
      async_scheduling: options.async_scheduling,
      expert_balancing: options.expert_balancing,
      max_queued,
    },
  };
}

/**
 * Tokens that request records hold: all that can have KV in the pod, twice over since prefixes are shared, and a short prompt for each choice that waits. 4 bytes
 * each: 2.3 MiB for two NPUs of the shipped model.
 */
const recordedTokens = ({ kv_blocks, kv_block_size }: LayoutOptions, npus: number, max_queued: number): number =>
  2 * npus * kv_blocks * kv_block_size + TOKENS_PER_WAITING * max_queued;

/** Every die's has room for any NPU, as the dies have. */
function dramRequests(sizes: readonly StepLayout[], npus: number, dram_blocks: number, dies: number): RegionRequest[] {
  const bytes = dram_blocks * Math.max(...sizes.map(({ kv }) => kv.block_bytes));
  const parts = { 'KV blocks in DRAM': bytes };
  return Array.from({ length: dies }, (_, die) => ({ owner: die < npus ? `npu/${die}` : `die/${die}`, kind: 'dram', bytes, parts }));
}

/** @throws `invalid_request` for a mapping that leaves an NPU or a worker out */
function workersOf(deployment: Deployment, scaled: Scaled | null, workers: number, given: readonly number[] | undefined): readonly number[] {
  const npus = deployment.npus.length;
  if (given === undefined) return dealtOutByKind(deployment.npus, workers, (npu) => isServing(deployment, scaled, npu));
  const wrong = (why: string): MinipodError =>
    new MinipodError('invalid_request', `npu_workers: ${why}; it names the worker, from 0 to ${workers - 1}, of each of the ${npus} NPUs in order`, {
      param: 'npu_workers',
    });
  if (given.length !== npus) throw wrong(`it names workers of ${given.length} NPUs`);
  const foreign = given.find((worker) => worker >= workers);
  if (foreign !== undefined) throw wrong(`there is no worker ${foreign}`);
  const idle = Array.from({ length: workers }, (_, worker) => worker).find((worker) => !given.includes(worker));
  if (idle !== undefined) throw wrong(`worker ${idle} hosts no NPU`);
  return given;
}

const dtypeIn =
  (checkpoint: Checkpoint): Dtypes =>
  (name) =>
    checkpoint.tensors.get(name)?.dtype ?? 'BF16';

/** The request records of a pod, as any of its threads sees them. */
export const recordTableOf = ({ options }: AnyPodPlan, space: AddressSpace): RecordTable =>
  new RecordTable(space, space.region('pod', 'records'), options.max_queued);

/** The layout of an NPU that moves to another die. */
export function layoutOnDie(plan: PodPlan, checkpoint: Checkpoint, npu: number, die: number): NpuLayout | ExpertNpuLayout {
  const region = plan.dies[die];
  assert(region, `there is no die ${die}`);
  return layoutDie(plan.config, dtypeIn(checkpoint), plan.options, npu, region.base, region.bytes);
}

/** Where an NPU's KV blocks and offers lie on a die that it has. */
export function onDie(plan: AnyPodPlan, npu: number, die: number): OfferSource {
  const layout = plan.layouts[npu];
  const region = plan.dies[die];
  assert(layout?.kind === 'attention' && region, `there is no NPU ${npu} with KV, or no die ${die}`);
  const { offers, kv } = layout;
  const moved = (address: number): number => address - layout.base + region.base;
  return {
    offers: { ...offers, address: moved(offers.address) },
    kv: {
      ...{ ...kv, address: moved(kv.address), holders: moved(kv.holders), generations: moved(kv.generations) },
      ...{ sums: moved(kv.sums), filled: moved(kv.filled) },
    },
  };
}

/** Where a die's areas lie: at its region's beginning, whichever NPU has it. Where any may, its reply area ends where the largest one would. */
export const areasOfDie = (plan: AnyPodPlan, die: number): Areas => {
  const [first] = plan.layouts;
  const region = plan.dies[die];
  assert(first && region, `there is no die ${die}`);
  const { metadata, managed, dispatch, reply, gather, ...sizes } = first.areas;
  const moved = (address: number): number => address - first.base + region.base;
  const [data, tokens] = [
    { metadata: moved(metadata), managed: moved(managed) },
    { dispatch: moved(dispatch), reply: moved(reply) },
  ];
  const isAnybodys = plan.hosting.spare_workers > 0 || isPlaceOfSwitch(plan.hosting, plan.options, die);
  const reply_bytes = isAnybodys ? Math.max(...plan.layouts.map(({ areas }) => areas.reply_bytes)) : (plan.layouts[die] ?? first).areas.reply_bytes;
  return { ...sizes, ...data, ...tokens, reply_bytes, gather: moved(gather) };
};
