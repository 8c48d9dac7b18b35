/**
 * What a pod tells its caller about its experts, live or virtual.
 * @module
 */
import type { ExpertPlaces } from './flowserve/expert-places.ts';
import { percentileOf } from './flowserve/expert-times.ts';
import type { AnyPodPlan } from './flowserve/pod-plan.ts';
import type { ExpertsReport } from './platform/control-handle.ts';
import type { BalancingReport } from './platform/expert-balancing.ts';
import type { ExpertReport } from './protocol/threads.ts';
import type { ExpertBalancingStats, ExpertLayerStats, ExpertReplicaStats, ExpertServiceTimes, ExpertStats, PodExperts } from './results.ts';
import type { Clock } from './runtime/clock.ts';

export function podExperts(model: string, clock: Clock, { config, hosting }: AnyPodPlan, { loads, places, reports, balancing }: ExpertsReport): PodExperts {
  const reportOf = new Map(reports.map((report) => [`${report.npu} ${report.layer} ${report.expert}`, report]));
  return {
    model,
    uptime_seconds: clock.now_ms() / 1000,
    experts_per_layer: config.moe.experts,
    top_k: config.moe.topK,
    task_executors: hosting.deployment.executors.map((executor) => ({
      task_executor: executor.id,
      role: executor.role,
      balancing: balancing.filter(({ executor: id }) => id === executor.id).map(balancingStats)[0] ?? null,
      layers: loads.map(({ layer, by_executor }, index) =>
        layerStats(layer, by_executor[executor.id] ?? [], places[index]?.by_executor[executor.id] ?? NOWHERE, (npu, expert) =>
          reportOf.get(`${npu} ${layer} ${expert}`),
        ),
      ),
    })),
  };
}

const NOWHERE: ExpertPlaces = { npus: [], map_epoch: 0 };

export const balancingStats = ({ progress_ms, ...balancing }: BalancingReport): ExpertBalancingStats => ({
  ...balancing,
  last_progress_seconds: progress_ms / 1000,
});

type ReportOf = (npu: number, expert: number) => ExpertReport | undefined;

function layerStats(layer: number, loads: readonly number[], { npus, map_epoch }: ExpertPlaces, reportOf: ReportOf): ExpertLayerStats {
  const tokens = loads.reduce((sum, load) => sum + load, 0);
  const experts = loads.map((load, expert): ExpertStats => {
    const replicas = (npus[expert] ?? []).map((npu) => replicaStats(npu, reportOf(npu, expert)));
    return { expert, tokens: load, share: tokens === 0 ? 0 : load / tokens, replicas };
  });
  return { layer, tokens, busiest_over_mean_npu: busiestOverMean(experts), map_epoch, experts };
}

const replicaStats = (npu: number, report: ExpertReport | undefined): ExpertReplicaStats =>
  report === undefined ? { npu, queued: null, service: null } : { npu, queued: report.queued, service: serviceTimes(report) };

function serviceTimes(report: ExpertReport): ExpertServiceTimes | null {
  const { batches, tokens, us_sum, counts } = report;
  if (batches === 0) return null;
  const times = { batches, tokens, us_sum, counts: [...counts] };
  return { batches, tokens, mean_us: us_sum / batches, p50_us: percentileOf(times, 0.5), p99_us: percentileOf(times, 0.99) };
}

/** Replicas take turns, so each has its part of the expert's tokens. */
export function busiestOverMean(experts: readonly ExpertStats[]): number {
  const busy = new Map<number, number>();
  for (const { tokens, replicas } of experts) for (const { npu } of replicas) busy.set(npu, (busy.get(npu) ?? 0) + tokens / replicas.length);
  const all = [...busy.values()];
  const mean = all.reduce((sum, tokens) => sum + tokens, 0) / all.length;
  return mean > 0 ? Math.max(...all) / mean : 1;
}
