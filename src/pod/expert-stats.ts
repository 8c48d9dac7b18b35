/**
 * What a pod tells its caller about its experts, live or virtual.
 * @module
 */
import type { ExpertPlaces } from '../flowserve/experts/expert-places.ts';
import { percentileOf } from '../flowserve/experts/expert-times.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { ExpertsReport } from '../platform/control-handle.ts';
import type { BalancingReport } from '../platform/expert-balancing.ts';
import type { ExpertReport } from '../protocol/threads.ts';
import type { Clock } from '../runtime/clock.ts';
import type { ExpertBalancingStats, ExpertLayerStats, ExpertReplicaStats, ExpertServiceTimes, ExpertStats, LayerRebalance, PodExperts } from '../stats.ts';

export function podExperts(model: string, clock: Clock, { config, hosting }: AnyPodPlan, { loads, places, reports, balancing }: ExpertsReport): PodExperts {
  const reportOf = new Map(reports.map((report) => [`${report.npu} ${report.layer} ${report.expert}`, report]));
  return {
    model,
    uptime_seconds: clock.now_ms() / 1000,
    experts_per_layer: config.moe.experts,
    top_k: config.moe.topK,
    task_executors: hosting.deployment.executors.map((executor) => {
      const loop = balancing.find(({ executor: id }) => id === executor.id);
      return {
        task_executor: executor.id,
        role: executor.role,
        balancing: loop === undefined ? null : balancingStats(loop),
        layers: loads.map(({ layer, by_executor }, index) =>
          layerStats(config, layer, by_executor[executor.id] ?? [], places[index]?.by_executor[executor.id] ?? NOWHERE, loop, (npu, expert) =>
            reportOf.get(`${npu} ${layer} ${expert}`),
          ),
        ),
      };
    }),
  };
}

const NOWHERE: ExpertPlaces = { npus: [], map_epoch: 0 };

export const balancingStats = ({ progress_ms, lastPlan: _, ...balancing }: BalancingReport): ExpertBalancingStats => ({
  ...balancing,
  last_progress_seconds: progress_ms / 1000,
});

type ReportOf = (npu: number, expert: number) => ExpertReport | undefined;

function layerStats(
  { layers }: Pick<AnyPodPlan['config'], 'layers'>,
  layer: number,
  loads: readonly number[],
  { npus, map_epoch }: ExpertPlaces,
  loop: BalancingReport | undefined,
  reportOf: ReportOf,
): ExpertLayerStats {
  const moved = new Map((loop?.lastPlan.moved ?? []).flatMap((one) => (one.layer === layer ? [[one.expert, { onto: one.onto, off: one.off }]] : [])));
  const tokens = loads.reduce((sum, load) => sum + load, 0);
  const experts = loads.map((load, expert): ExpertStats => {
    const replicas = (npus[expert] ?? []).map((npu) => replicaStats(npu, reportOf(npu, expert)));
    return { expert, tokens: load, share: tokens === 0 ? 0 : load / tokens, replicas, moved: moved.get(expert) ?? null };
  });
  return {
    layer,
    ...(layer >= layers && { mtp: layer - layers + 1 }),
    tokens,
    busiest_over_mean_npu: busiestOverMean(experts),
    map_epoch,
    last_rebalance: loop === undefined ? null : lastRebalance(layer, loop),
    experts,
  };
}

function lastRebalance(layer: number, { last, lastPlan }: BalancingReport): LayerRebalance | null {
  if (last === null) return null;
  const plan = lastPlan.layers.find((one) => one.layer === layer);
  if (plan === undefined) return { before: null, planned: null, reason: last.reason };
  const { before, planned, isChosen } = plan;
  const figures = `busiest NPU over mean ${before.toFixed(3)} → ${planned.toFixed(3)}`;
  const judged = planned < before ? 'predicted better' : `${isChosen ? 'asked for, though ' : ''}predicted no better`;
  const isOver = last.outcome === 'installed' || last.outcome === 'unchanged';
  return { before, planned, reason: isOver ? `${judged}: ${figures}` : last.reason };
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
