/**
 * How the loops do that move experts, as Prometheus metrics, `minipod:…`: one for each task executor whose experts may move.
 * @module
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

export function balancingMetrics(registry: Registry): (stats: PodStats) => void {
  const registers = [registry];
  const labelNames = ['task_executor'] as const;
  const gauge = (name: string, help: string) => new Gauge({ name: `minipod:expert_balancing_${name}`, help, labelNames, registers });
  const progress = gauge('last_progress_seconds', "When the loop last came to another state, in seconds of the pod's uptime.");
  const age = gauge(
    'progress_age_seconds',
    'How long ago that was; more than two periods, and than twice what its state may take: the loop has died, and /health is 503.',
  );
  const stalled = gauge('stalled', '1: no progress for two periods, nor for twice as long as its state may take.');
  const epoch = gauge('map_epoch', 'Of the last map that NPUs were told of.');
  const rounds = new Counter({
    name: 'minipod:expert_balancing_progress_total',
    help: 'Periods, rebalances and other changes of the map that have ended.',
    labelNames,
    registers,
  });
  const state = new Gauge({
    name: 'minipod:expert_balancing_state',
    help: 'The state that the loop is in has 1.',
    labelNames: [...labelNames, 'state'] as const,
    registers,
  });
  const changes = new Counter({
    name: 'minipod:expert_map_changes_total',
    help: 'Changes of the expert map that have ended, by what they were for, what became of them, and why.',
    labelNames: [...labelNames, 'change', 'outcome', 'cause'] as const,
    registers,
  });
  const copied = new Counter({
    name: 'minipod:expert_weights_copied_bytes_total',
    help: 'Weights of experts that came to a slot, by the way: from another slot by a broadcast to several NPUs or pulled by one, or read from the checkpoint.',
    labelNames: [...labelNames, 'way'] as const,
    registers,
  });
  const lost = gauge('experts_lost', 'Experts, over all layers, that no NPU has any more and nobody brings back, the shared ones not counted.');
  const masked = new Gauge({
    name: 'minipod:experts_masked_npus',
    help: 'NPUs without whose experts a task executor serves on (option degraded); what it generates so is marked.',
    labelNames,
    registers,
  });
  return ({ uptime_seconds, expert_balancing, experts_masked }) => {
    masked.reset();
    for (const { task_executor, npus } of experts_masked) masked.set({ task_executor: String(task_executor) }, npus.length);
    for (const metric of [progress, age, stalled, epoch, rounds, state, changes, copied, lost]) metric.reset();
    for (const { executor, ...loop } of expert_balancing) {
      const task_executor = String(executor);
      progress.set({ task_executor }, loop.last_progress_seconds);
      age.set({ task_executor }, Math.max(0, uptime_seconds - loop.last_progress_seconds));
      stalled.set({ task_executor }, Number(loop.stalled));
      epoch.set({ task_executor }, loop.epoch);
      lost.set({ task_executor }, loop.lost.experts.length);
      rounds.inc({ task_executor }, loop.progress);
      state.set({ task_executor, state: loop.state }, 1);
      for (const { count, ...labels } of loop.counts) changes.inc({ task_executor, ...labels }, count);
      for (const way of ['broadcast', 'pulled', 'checkpoint'] as const) copied.inc({ task_executor, way }, loop.copied[way].bytes);
    }
  };
}
