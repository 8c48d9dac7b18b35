/**
 * What a control thread is given and what it says of itself.
 * @module
 */
import type { RegionReport } from '../fabric/region-table.ts';
import type { LayerLoads } from '../flowserve/experts/expert-loads.ts';
import type { LayerPlaces } from '../flowserve/experts/expert-places.ts';
import type { PlanOptions, PodPlan } from '../flowserve/pod-plan.ts';
import type { CollectionReport, ExpertReport, KvLinkReport, LinkReport, NpuReport, ThreadReport } from '../protocol/threads.ts';
import type { Seating } from '../runtime/directory.ts';
import type { ScalingStats } from '../stats.ts';
import type { ActRing, WhenFull } from '../trace/act-log.ts';
import type { LoopReport } from './control-loops.ts';
import type { BalancingReport } from './expert-balancing.ts';
import type { LostExperts, MaskedExperts } from './lost-experts.ts';
import type { RecoveryReport } from './recoveries.ts';
import type { SuspicionReport } from './suspicions.ts';
import type { UnplacedTasks } from './unplaced-tasks.ts';

export type ControlOptions = PlanOptions & {
  readonly folder: string;
  readonly origin_ms: number;
  /** The trace to write, and whether the run waits (the default) where that or the routing's is written too slowly. */
  readonly record?: string | undefined;
  /** The routing trace to write. */
  readonly record_routing?: string | undefined;
  readonly record_when_full?: WhenFull | undefined;
  /** False: no prompt is in it. */
  readonly record_prompts: boolean;
  /** Of the control thread in whose place it begins, and of which nothing runs any more: to begin in. Missing: in new ones. */
  readonly memories?: readonly WebAssembly.Memory[];
  /** Where it says how far it has come. */
  readonly beginning?: Int32Array | undefined;
  /** Of whoever looks on: one word for all rings that it reads. */
  readonly inspected?: Int32Array | undefined;
  /** What worker threads run instead of the shipped entry: a test's, that misbehaves. */
  readonly worker_entry?: URL;
  /** The same of the network card's thread. */
  readonly card_entry?: URL;
  /** How long it may be silent where it is asked. Default: 5 s. */
  readonly card_deadline_ms?: number;
};

/** What the caller's thread needs to talk to the pod. */
export type ControlHandle = {
  readonly plan: PodPlan;
  readonly memories: readonly WebAssembly.Memory[];
  readonly seating: Seating;
  /** By thread. */
  readonly epochs: readonly number[];
  /** Threads whose rings nobody may touch now. */
  readonly lost: readonly number[];
  /** Messages carry their cause. */
  readonly isTraced: boolean;
  /** One word for all rings of a recorder (trace/recording-state.ts). */
  readonly recordings: readonly Int32Array[];
  readonly vocab_size: number;
  readonly parameters: number;
  readonly has_chat_template: boolean;
};

/** What the pod knows of itself, whatever its clock. */
export type ControlStats = {
  readonly npus: readonly NpuReport[];
  readonly links: readonly { readonly thread: number; readonly reports: readonly LinkReport[] }[];
  readonly kv_links: readonly KvLinkReport[];
  readonly threads: readonly ThreadReport[];
  /** Of worker threads that live. */
  readonly garbage: readonly ({ readonly worker: number } & CollectionReport)[];
  readonly regions: readonly RegionReport[];
  readonly scaling: ScalingStats | null;
  readonly expert_loads: readonly (readonly number[])[];
  readonly expert_balancing: readonly BalancingReport[];
  readonly loops: readonly LoopReport[];
  readonly suspicions: SuspicionReport;
  readonly experts_lost: readonly LostExperts[];
  readonly experts_masked: readonly MaskedExperts[];
  readonly unplaced: readonly UnplacedTasks[];
  /** Lost NPUs in whose place nobody comes for now. */
  readonly npus_gone: readonly number[];
  readonly recoveries: readonly RecoveryReport[];
  readonly unexpected: readonly string[];
  readonly actors: number;
};

/** What it knows of its experts; those on lost workers have no report. */
export type ExpertsReport = {
  readonly loads: readonly LayerLoads[];
  readonly places: readonly LayerPlaces[];
  readonly reports: readonly ExpertReport[];
  readonly balancing: readonly BalancingReport[];
};

/** Given each ring that whoever looks on is to read. */
export type OnInspected = (ring: ActRing) => void;
