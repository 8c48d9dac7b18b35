/** What a pod tells its caller about itself, live or virtual. @module */
import type { CallCounts } from '../calls/call-counts.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { ControlStats } from '../platform/control-handle.ts';
import { type DraftCounts, type KvLinkReport, type LinkRead, NO_DRAFTS } from '../protocol/threads.ts';
import type { Deployment } from '../protocol/topology.ts';
import type { Clock } from '../runtime/clock.ts';
import type { DpGroupStats, KvLinkStats, LinkStats, PodStats, ServingStats, TaskExecutorStats } from '../stats.ts';
import type { ControlRecoveries } from './control-recoveries.ts';
import { balancingStats } from './expert-stats.ts';

/** Of a reader that is lost. */
const NOTHING_READ: LinkRead = { received_frames: 0, received_bytes: 0, stale: 0, latencies_us: [], latency_us_sum: 0 };

/** Each link once, with what its writer and what its reader count. */
function linkStats(views: ControlStats['links'], threads: ControlStats['threads']): LinkStats[] {
  const nameOf = (thread: number): string => threads[thread]?.name ?? `${thread}`;
  return views.flatMap(({ thread, reports }) =>
    reports.map(({ peer, ...report }) => {
      const reader = views.find((view) => view.thread === peer)?.reports.find((other) => other.peer === thread && other.lane === report.lane);
      // What the writer's thread reads is the ring of the other direction.
      const { received_frames, received_bytes, stale, latencies_us, latency_us_sum } = reader ?? NOTHING_READ;
      return { from: nameOf(thread), to: nameOf(peer), ...report, received_frames, received_bytes, stale, latencies_us, latency_us_sum };
    }),
  );
}

type Figures = Omit<ServingStats, 'role'>;

const NOTHING_FINISHED = { stop: 0, length: 0, cancelled: 0, failed: 0 };

const NO_FIGURES: Figures = {
  ...{ requests_running: 0, requests_waiting: 0, requests_finished: NOTHING_FINISHED, prompt_tokens: 0, generation_tokens: 0 },
  ...{ kv_blocks: 0, kv_blocks_used: 0, kv_blocks_cached: 0, prefix_queries: 0, prefix_hits: 0, preemptions: 0, drafting: NO_DRAFTS },
  ...{ kv_lent: 0, kv_expected: 0, kv_leases_expired: 0 },
  ...{ remote_hits: 0, remote_hits_refused: 0, remote_hits_missed: 0 },
};

/** A group's scheduler and KV blocks are its first rank's to tell of: the others hold shares of the same. Who waits for a group is told of with whoever leads. */
function groupStats({ groups, executors }: Deployment, report: ControlStats, counted: CallCounts): DpGroupStats[] {
  return groups.map(({ id, executor, npus }) => {
    const leader = report.npus.find(({ npu }) => npu === npus[0]);
    const counts = counted.groups.get(id);
    const unplaced = report.unplaced.find(({ dp_group }) => dp_group === id)?.tasks ?? 0;
    const { requests_running, requests_waiting, kv_blocks, kv_blocks_used, kv_blocks_cached, prefix_queries, prefix_hits, preemptions } = leader ?? NO_FIGURES;
    const { kv_lent, kv_expected, kv_leases_expired, remote_hits, remote_hits_refused, remote_hits_missed, drafting } = leader ?? NO_FIGURES;
    return {
      ...{
        dp_group: id,
        task_executor: executor,
        role: executors[executor]?.role ?? 'colocated',
        npus,
        requests_running,
        requests_waiting: requests_waiting + kv_expected + unplaced,
      },
      gone: npus.some((npu) => report.npus_gone.includes(npu)),
      requests_finished: { ...(counts?.finished ?? NOTHING_FINISHED) },
      prompt_tokens: counts?.prompt_tokens ?? 0,
      generation_tokens: counts?.generation_tokens ?? 0,
      ...{ kv_blocks, kv_blocks_used, kv_blocks_cached, prefix_queries, prefix_hits, preemptions, drafting },
      ...{ kv_lent, kv_expected, kv_leases_expired, remote_hits, remote_hits_refused, remote_hits_missed },
    };
  });
}

function addFigures(a: Figures, b: Figures): Figures {
  const finished = [...new Set([...Object.keys(a.requests_finished), ...Object.keys(b.requests_finished)])];
  const sum = (figure: Exclude<keyof Figures, 'requests_finished' | 'drafting'>): number => a[figure] + b[figure];
  return {
    requests_running: sum('requests_running'),
    requests_waiting: sum('requests_waiting'),
    requests_finished: Object.fromEntries(finished.map((how) => [how, (a.requests_finished[how] ?? 0) + (b.requests_finished[how] ?? 0)])),
    prompt_tokens: sum('prompt_tokens'),
    generation_tokens: sum('generation_tokens'),
    kv_blocks: sum('kv_blocks'),
    kv_blocks_used: sum('kv_blocks_used'),
    kv_blocks_cached: sum('kv_blocks_cached'),
    prefix_queries: sum('prefix_queries'),
    prefix_hits: sum('prefix_hits'),
    preemptions: sum('preemptions'),
    drafting: addDrafts(a.drafting, b.drafting),
    kv_lent: sum('kv_lent'),
    kv_expected: sum('kv_expected'),
    kv_leases_expired: sum('kv_leases_expired'),
    remote_hits: sum('remote_hits'),
    remote_hits_refused: sum('remote_hits_refused'),
    remote_hits_missed: sum('remote_hits_missed'),
  };
}

const addDrafts = (a: DraftCounts, b: DraftCounts): DraftCounts => ({
  drafts: a.drafts + b.drafts,
  draft_tokens: a.draft_tokens + b.draft_tokens,
  accepted_tokens: a.accepted_tokens + b.accepted_tokens,
  accepted_at: (a.accepted_at.length < b.accepted_at.length ? b : a).accepted_at.map((_, at) => (a.accepted_at[at] ?? 0) + (b.accepted_at[at] ?? 0)),
});

const executorStats = ({ executors }: Deployment, groups: readonly DpGroupStats[]): TaskExecutorStats[] =>
  executors.map(({ id, role, groups: own }) => {
    const figures = own.map((group): Figures => groups[group] ?? NO_FIGURES).reduce(addFigures, NO_FIGURES);
    return { task_executor: id, role, dp_groups: own, ...figures };
  });

/** Each worker has links of its own between the same executors. */
function kvLinkStats(reports: readonly KvLinkReport[]): KvLinkStats[] {
  const sums = new Map<string, KvLinkStats>();
  for (const report of reports) {
    const pair = `${report.source} ${report.target}`;
    const known = sums.get(pair);
    sums.set(pair, known === undefined ? report : addLinks(known, report));
  }
  return [...sums.values()].toSorted((a, b) => a.source - b.source || a.target - b.target);
}

const addLinks = (a: KvLinkReport, b: KvLinkReport): KvLinkReport => ({
  ...{ source: a.source, target: a.target, fabric: a.fabric, started: a.started + b.started, done: a.done + b.done },
  ...{ bytes: a.bytes + b.bytes, wasted_bytes: a.wasted_bytes + b.wasted_bytes },
  failed: Object.fromEntries(Object.entries(a.failed).map(([reason, count]) => [reason, count + (b.failed[reason] ?? 0)])),
  ...{ probes_passed: a.probes_passed + b.probes_passed, probes_broken: a.probes_broken + b.probes_broken },
  probe_us_max: Math.max(a.probe_us_max, b.probe_us_max),
});

const suspicionStats = ({ counts, standing }: ControlStats['suspicions']): PodStats['suspicions'] => ({
  counts,
  standing: standing.map(({ member, why, silent_ms }) => ({ member, why, silent_seconds: silent_ms / 1000 })),
});

/** `counts`, `recoveries`: the caller's. */
export function podStats(model: string, clock: Clock, plan: AnyPodPlan, report: ControlStats, counts: CallCounts, recoveries: ControlRecoveries): PodStats {
  const { memory, hosting, layouts, options } = plan;
  const dp_groups = groupStats(hosting.deployment, report, counts);
  return {
    model,
    uptime_seconds: clock.now_ms() / 1000,
    requests_running: report.npus.reduce((sum, { requests_running }) => sum + requests_running, 0),
    requests_waiting: dp_groups.reduce((sum, { requests_waiting }) => sum + requests_waiting, 0),
    requests_finished: { ...counts.all.finished },
    prompt_tokens: counts.all.prompt_tokens,
    generation_tokens: counts.all.generation_tokens,
    kv_block_size: options.kv_block_size,
    task_executors: executorStats(hosting.deployment, dp_groups),
    dp_groups,
    npus: report.npus.map((npu) => ({
      ...npu,
      kind: hosting.deployment.npus[npu.npu]?.kind ?? 'attention',
      task_executor: hosting.deployment.npus[npu.npu]?.executor ?? 0,
      worker: hosting.worker_of_npu[npu.npu] as number,
      gone: report.npus_gone.includes(npu.npu),
      hbm_bytes: layouts[npu.npu]?.bytes ?? 0,
    })),
    kv_links: kvLinkStats(report.kv_links),
    scaling: report.scaling,
    expert_loads: report.expert_loads,
    expert_balancing: report.expert_balancing.map(balancingStats),
    loops: report.loops.map(({ period_ms, still_ms, is_stalled: stalled, ...loop }) => ({
      ...{ ...loop, stalled, period_seconds: period_ms / 1000, still_seconds: still_ms / 1000 },
    })),
    ...{ suspicions: suspicionStats(report.suspicions), experts_lost: report.experts_lost, experts_masked: report.experts_masked },
    recoveries: report.recoveries.map(({ at_ms, is_warm: warm, has_successor: successor, ...parts }) => ({
      ...parts,
      successor,
      warm,
      lost_at_seconds: at_ms / 1000,
    })),
    ...{ control_recoveries: recoveries.report(), control_threads_lost: recoveries.lost_total },
    memory: { total_bytes: memory.bytes, regions: report.regions },
    fabric: { links: linkStats(report.links, report.threads), threads: report.threads },
    garbage: report.garbage,
    unexpected_messages: report.unexpected,
  };
}
