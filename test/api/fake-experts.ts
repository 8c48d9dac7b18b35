/** What a pod without a model says of its experts. @module */
import type { RebalanceReport } from '../../src/protocol/expert-maps.ts';
import type { PodExperts } from '../../src/stats.ts';

export function fakeExperts(model: string, measure: boolean): PodExperts {
  const service = { batches: 4, tokens: 12, mean_us: 3, p50_us: 2.5, p99_us: 7 };
  const expert = (id: number, tokens: number) => {
    const replica = { npu: id % 2, queued: id, service: measure && id === 0 ? service : null };
    return { expert: id, tokens, share: tokens / 100, replicas: [replica], moved: null };
  };
  const layers = [
    { layer: 1, tokens: 100, busiest_over_mean_npu: 1.2, map_epoch: 0, last_rebalance: null, experts: [60, 10, 0, 30].map((tokens, id) => expert(id, tokens)) },
  ];
  const executor = { task_executor: 0, role: 'colocated' as const, balancing: null, layers };
  return { model: model, uptime_seconds: 1, experts_per_layer: 4, top_k: 2, task_executors: [executor] };
}

/** Forced, two slots change; else none does. */
export function fakeRebalance(force: boolean): RebalanceReport {
  const moves = [
    { layer: 1, expert: 0, npu: 1, source: 0, replaced: null },
    { layer: 1, expert: null, npu: 0, source: null, replaced: 3 },
  ];
  const same = { task_executor: 0, entry: 4, trigger: 'asked' as const, before: 1.5, epoch: 8 };
  return force
    ? { ...same, installed: true, outcome: 'installed', cause: 'forced', reason: 'asked for', after: 1.2, slots: 2, moves }
    : { ...same, installed: false, outcome: 'rolled_back', cause: 'npu_lost', reason: 'npu/1 was lost', after: 1.5, slots: 0, moves: [] };
}
