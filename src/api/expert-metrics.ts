/**
 * How even experts are, as Prometheus metrics, `minipod:…`: by layer, and by expert where that is asked for and there are not too many.
 * @module
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { PodExperts } from '../stats.ts';

/** `layer`: 2 series for each layer of each task executor that has experts. `expert`: one more for each expert of each. */
export const EXPERT_METRICS = ['layer', 'expert'] as const;
export type ExpertMetrics = (typeof EXPERT_METRICS)[number];

/** Beyond, they are left out: 58 layers of 256 experts in one task executor are 14,848. */
export const EXPERT_SERIES_MAX = 16_384;

/** Tells how many series by expert were left out. */
export function expertMetrics(registry: Registry): (experts: PodExperts, detail: ExpertMetrics) => number {
  const registers = [registry];
  const ofLayer = ['task_executor', 'layer'] as const;
  const imbalance = new Gauge({
    name: 'minipod:expert_busiest_over_mean_npu',
    help: "Tokens of the layer's busiest NPU over the mean NPU's, since the pod's start; 1 is even.",
    labelNames: ofLayer,
    registers,
  });
  const epoch = new Gauge({
    name: 'minipod:expert_map_epoch',
    help: 'Of the expert map by which a slot of the layer changed last.',
    labelNames: ofLayer,
    registers,
  });
  const tokens = new Counter({
    name: 'minipod:expert_tokens_total',
    help: 'Tokens routed to the expert.',
    labelNames: [...ofLayer, 'expert'] as const,
    registers,
  });
  return ({ task_executors }, detail) => {
    for (const metric of [imbalance, epoch, tokens]) metric.reset();
    const series = task_executors.reduce((sum, { layers }) => sum + layers.reduce((of, { experts }) => of + experts.length, 0), 0);
    const hasExperts = detail === 'expert' && series <= EXPERT_SERIES_MAX;
    for (const executor of task_executors) {
      const task_executor = String(executor.task_executor);
      for (const { layer: number, busiest_over_mean_npu, map_epoch, experts } of executor.layers) {
        const layer = String(number);
        imbalance.set({ task_executor, layer }, busiest_over_mean_npu);
        epoch.set({ task_executor, layer }, map_epoch);
        if (hasExperts) for (const expert of experts) tokens.inc({ task_executor, layer, expert: String(expert.expert) }, expert.tokens);
      }
    }
    return detail === 'expert' && !hasExperts ? series : 0;
  };
}
