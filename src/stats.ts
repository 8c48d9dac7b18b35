/** What a pod tells of itself: its parts, what they do and have done, who was lost, and what came of changes. @module */
import type { MapCount } from '../actors/policies/map-log.ts';
import type { RebalanceOutcome } from './protocol/expert-maps.ts';
import type { LostExperts, MapEntry, WeightsCopied } from './protocol/map-log.ts';
import type { WeightsFurnished } from './protocol/scaling.ts';
import type { CollectionReport, DraftCounts, KvLinkReport, Lane, LinkRead, LinkWritten, NpuReport, ThreadReport } from './protocol/threads.ts';
import type { ExecutorRole, NpuPlace } from './protocol/topology.ts';

/**
 * What an NPU reports, and where it is. While its worker is lost and no successor has reported, its state is `lost`: it holds nothing, and what it has
 * counted is as last heard. Its successor counts from 0. `kind`: `experts`, it has experts only, computes for whoever asks, and runs no steps; `attention`: all others.
 * `gone`: nobody comes in its place for now.
 */
export type NpuStats = NpuReport & {
  readonly kind: NpuPlace['kind'];
  readonly task_executor: number;
  readonly worker: number;
  readonly gone: boolean;
  readonly hbm_bytes: number;
};

/** What a DP group does and has done, or all groups of a task executor together. Counters of its NPUs begin at 0 again with a worker's successor. */
export type ServingStats = {
  readonly role: ExecutorRole;
  readonly requests_running: number;
  /** Also for KV that is lent. Those that no group of the task executor has yet are told of with the one that leads, or the first. */
  readonly requests_waiting: number;
  /** By how: choices that finished here, requests that were cancelled or failed after a token from here. */
  readonly requests_finished: Readonly<Record<string, number>>;
  /** Of prompts whose first token came from here, and of all tokens that did. */
  readonly prompt_tokens: number;
  readonly generation_tokens: number;
  readonly kv_blocks: number;
  readonly kv_blocks_used: number;
  readonly kv_blocks_cached: number;
  readonly prefix_queries: number;
  readonly prefix_hits: number;
  readonly preemptions: number;
  readonly drafting: DraftCounts;
  /** Sequences whose KV is lent to a decode side, and whose KV is awaited or received; leases that ended before anybody had pulled. */
  readonly kv_lent: number;
  readonly kv_expected: number;
  readonly kv_leases_expired: number;
  /** Prefixes that came from other groups, that would have taken longer to fetch than to compute, and that did not come though they were asked for. */
  readonly remote_hits: number;
  readonly remote_hits_refused: number;
  readonly remote_hits_missed: number;
};
/** `npus`: by rank. Those of one group hold shares of the same KV blocks. `gone`: one of them is lost, and nobody comes in its place for now. */
export type DpGroupStats = ServingStats & {
  readonly dp_group: number;
  readonly task_executor: number;
  readonly npus: readonly number[];
  readonly gone: boolean;
};
export type TaskExecutorStats = ServingStats & { readonly task_executor: number; readonly dp_groups: readonly number[] };

/**
 * A region of global memory: one owner's, in one segment. `base` is a global address, segment × 2³² + offset; `owner`: `pod`, `npu/0`, or `die/4` for memory
 * that no NPU has.
 */
export type RegionStats = {
  readonly owner: string;
  readonly kind: string;
  readonly base: number;
  readonly bytes: number;
  /** `quarantined`: a worker that was given up may still write there. */
  readonly state: string;
  readonly epoch: number;
};

export type ThreadStats = ThreadReport;

/** How garbage collections hold a worker thread up. */
export type CollectionStats = { readonly worker: number } & CollectionReport;

/** KV that went from a task executor to another, as all workers that live count it. */
export type KvLinkStats = KvLinkReport;

/** A ring between two threads: what its writer and what its reader count. */
export type LinkStats = { readonly from: string; readonly to: string; readonly lane: Lane } & LinkWritten & LinkRead;

/** How long an NPU took for an expert's batches, of those that were timed. Percentiles are at most a quarter too high: bounds of a histogram's buckets. */
export type ExpertServiceTimes = {
  readonly batches: number;
  readonly tokens: number;
  readonly mean_us: number;
  readonly p50_us: number;
  readonly p99_us: number;
};

/**
 * An expert on one NPU. `queued`: its tokens in dispatches that have come and wait to be served; null while the NPU's worker is lost. `service`: null where no
 * batch of it was timed.
 */
export type ExpertReplicaStats = { readonly npu: number; readonly queued: number | null; readonly service: ExpertServiceTimes | null };

/** NPUs that an expert came to by the latest rebalance, and those that it left. */
export type ExpertMoved = { readonly onto: readonly number[]; readonly off: readonly number[] };

/**
 * `tokens`: routed to it since the pod's start. `share`: of all that the layer routed, 1 is all. `moved`: by the latest rebalance; null: it left the expert where
 * it was, and the layer says why.
 */
export type ExpertStats = {
  readonly expert: number;
  readonly tokens: number;
  readonly share: number;
  readonly replicas: readonly ExpertReplicaStats[];
  readonly moved: ExpertMoved | null;
};

/** Why the latest rebalance moved a layer's experts, or did not. Busiest NPU over mean, predicted, as it was and as planned; null: nothing was planned. */
export type LayerRebalance = { readonly before: number | null; readonly planned: number | null; readonly reason: string };

/** `tokens`: each as often as the gate chose experts for it. `busiest_over_mean_npu`: what the layer's time grows by; 1 is even. */
export type ExpertLayerStats = {
  readonly layer: number;
  /** 1: the first of the layers for multi-token prediction, which follow the model's; missing: it is one of the model's. */
  readonly mtp?: number;
  readonly tokens: number;
  readonly busiest_over_mean_npu: number;
  /** Of the expert map by which a slot of the layer changed last. */
  readonly map_epoch: number;
  /** Null: there was none. */
  readonly last_rebalance: LayerRebalance | null;
  /** By id. */
  readonly experts: readonly ExpertStats[];
};

/**
 * How the loop does that moves an executor's experts. `epoch`: of its map; `progress`: periods and changes that have ended; `last_progress_seconds`: when it last came
 * to another state, by the pod's clock; `stalled`: that was more than two periods ago, and twice as long as its state may take, so it has died; `last`: what became of
 * the latest rebalance, and why. `log`: the latest changes of the map, of all sorts, the last one open perhaps, and of rebalances in a row that changed nothing, for the
 * same cause, the latest; `counts`: all that have ended, by outcome and cause; `copied`: weights from slot to slot, for all of them, by the way they came. `lost`:
 * experts that nobody has any more, for want of room for them elsewhere.
 */
export type ExpertBalancingStats = {
  readonly executor: number;
  readonly state: string;
  readonly epoch: number;
  readonly progress: number;
  readonly last_progress_seconds: number;
  readonly stalled: boolean;
  readonly last: RebalanceOutcome | null;
  readonly log: readonly MapEntry[];
  readonly counts: readonly MapCount[];
  readonly copied: WeightsCopied;
  readonly lost: LostExperts;
};

/**
 * Times somebody was silent for longer than is borne, by what became of that: its worker was given up; its life was over already; or it is borne, since no spare seat
 * is left for a successor or it lives on the control thread. `standing`: who is silent still.
 */
export type SuspicionStats = {
  readonly counts: Readonly<Record<'given_up' | 'over' | 'no_spare_seat' | 'control_thread', number>>;
  readonly standing: readonly { readonly member: string; readonly why: 'no_spare_seat' | 'control_thread'; readonly silent_seconds: number }[];
};

/**
 * A loop that nobody asks for: `rebalance` of an expert map, `heartbeat` of the cluster managers and of task executors with tasks, `scaling` and `role_switch` that are
 * under way, `scheduling` of DP groups with requests waiting. `still_seconds`: since when it has made no progress; `stalled`: it had to, for two periods, and for twice
 * the time that it gives whom it waits for.
 */
export type LoopStats = {
  readonly loop: 'rebalance' | 'heartbeat' | 'scaling' | 'role_switch' | 'scheduling';
  readonly owner: string;
  readonly state: string;
  readonly period_seconds: number;
  readonly still_seconds: number;
  readonly stalled: boolean;
};

/**
 * A worker that was lost. `successor`: false: it has none (`respawn: false`), and what became of its experts is in the expert map's log. After `lost_at_seconds`, by the
 * pod's clock, come in turn: `end_ms`, its end is proven; `release_ms`, all others have let go of its rings; `start_ms`, the successor runs. Null: it has not come to
 * that. `warm`: the successor was a thread that waited for it.
 */
export type RecoveryStats = {
  readonly worker: number;
  readonly cause: 'died' | 'given_up';
  /** In words, such as which weights no longer are what was loaded. */
  readonly reason: string;
  readonly successor: boolean;
  readonly warm: boolean;
  readonly lost_at_seconds: number;
  readonly end_ms: number | null;
  readonly release_ms: number | null;
  readonly start_ms: number | null;
};

/** A control thread that was lost, with all others. `start_ms`: until its successor ran and open calls went on; null: that has not come yet. */
export type ControlRecoveryStats = {
  readonly reason: string;
  readonly lost_at_seconds: number;
  readonly start_ms: number | null;
};

/** `balancing`: why the last rebalance did or did not move experts, among others; null where they stay where they are. */
export type ExecutorExperts = {
  readonly task_executor: number;
  readonly role: ExecutorRole;
  readonly balancing: ExpertBalancingStats | null;
  readonly layers: readonly ExpertLayerStats[];
};

/** Layers that have no experts are left out. Each task executor has all experts for itself. */
export type PodExperts = {
  readonly model: string;
  readonly uptime_seconds: number;
  readonly experts_per_layer: number;
  /** Experts that the gate chooses for a token. */
  readonly top_k: number;
  readonly task_executors: readonly ExecutorExperts[];
};

/** `attention`: DP groups that serve; `experts`: expert NPUs that have the experts, null: these are not apart. */
export type ServingShape = { readonly attention: number; readonly experts: number | null };
/** What came of a change of the pod's shape: what serves, and did before. */
export type ScaleReport = ServingShape & { readonly was: ServingShape; readonly duration_ms: number };

/** Of a pod that keeps room for changes of its shape. `state`: of its actor, `stable` between changes; `last_error`: why the last change came to nothing. */
export type ScalingStats = {
  readonly state: string;
  readonly task_executor: number;
  /** DP groups that serve, and those for which there is room. */
  readonly attention: { readonly serving: number; readonly reserved: number };
  /** NPUs that have the experts, those for which there is room, and how few there may come to be; null: experts are not apart. */
  readonly experts: { readonly serving: number; readonly reserved: number; readonly fewest: number } | null;
  /** Of its NPUs: those that stand by hold none. */
  readonly weights: { readonly held_bytes: number; readonly reserved_bytes: number };
  /** To NPUs that came to serve, for all changes: as broadcasts to several at once, or pulled by a single one. Those of experts: `expert_balancing`. */
  readonly copied: WeightsFurnished;
  readonly changes: number;
  readonly last_error: string | null;
};

export type PodStats = {
  readonly model: string;
  readonly uptime_seconds: number;
  readonly requests_running: number;
  readonly requests_waiting: number;
  readonly requests_finished: Readonly<Record<string, number>>;
  readonly prompt_tokens: number;
  readonly generation_tokens: number;
  /** Positions a KV block holds. */
  readonly kv_block_size: number;
  /** DP groups are numbered through the pod, as `engine` in /metrics. */
  readonly task_executors: readonly TaskExecutorStats[];
  readonly dp_groups: readonly DpGroupStats[];
  readonly npus: readonly NpuStats[];
  /** By task executors that it went from and to; those between which nothing ever went are left out. */
  readonly kv_links: readonly KvLinkStats[];
  /** Null: its shape does not change. */
  readonly scaling: ScalingStats | null;
  /** Tokens routed to each expert: `[MoE layer][expert id]`. */
  readonly expert_loads: readonly (readonly number[])[];
  /** Of each task executor whose experts are balanced. */
  readonly expert_balancing: readonly ExpertBalancingStats[];
  readonly loops: readonly LoopStats[];
  readonly suspicions: SuspicionStats;
  /** Task executors that can compute nothing for now: experts are lost, no copy of them is left, and nobody can bring one back. */
  readonly experts_lost: readonly { readonly task_executor: number; readonly reason: string }[];
  /** Task executors that serve without the experts of these NPUs (option `degraded`). */
  readonly experts_masked: readonly { readonly task_executor: number; readonly npus: readonly number[] }[];
  /** Of worker threads, the latest last, 64 at most; on a virtual clock there are none. */
  readonly recoveries: readonly RecoveryStats[];
  /** Of control threads, the latest last, 64 at most. What the pod counts of its threads begins anew with each; what it counts of calls and tokens goes on. */
  readonly control_recoveries: readonly ControlRecoveryStats[];
  /** All of them. */
  readonly control_threads_lost: number;
  readonly memory: { readonly total_bytes: number; readonly regions: readonly RegionStats[] };
  readonly fabric: { readonly links: readonly LinkStats[]; readonly threads: readonly ThreadStats[] };
  /** By worker thread that lives; on a virtual clock there is none. */
  readonly garbage: readonly CollectionStats[];
  /** Messages that an actor's state did not expect, as `role TYPE state`: a defect, counted and never dropped in silence. */
  readonly unexpected_messages: readonly string[];
};
