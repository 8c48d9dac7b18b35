/** Pods that a campaign tries, by name: each kind of topology, small enough for thousands of runs, with what its fabric and schedulers may be varied by. @module */
import type { PodOptions } from '../options/options.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import type { Phase } from './fault-plan.ts';

type Draw = (limit: number) => number;
const pick = <Value>(draw: Draw, ...values: readonly Value[]): Value => values[draw(values.length)] as Value;

/** Of each layer of the shipped model: with as many redundant slots the loss of an NPU leaves a copy of each. */
const EXPERTS = 32;

/** KV is lent by request or by layer, and computed anew where nobody comes for it in time. */
const lending = (draw: Draw): PodOptions => ({
  kv_transfer: pick(draw, 'request', 'layer'),
  kv_fabric: pick(draw, 'memory', 'tcp'),
  kv_lease_ms: pick(draw, 20, 1_000),
  // Moved in microseconds, or in milliseconds.
  ...(draw(2) === 0 && { link_bytes_per_s: pick(draw, 1e6, 1e7) }),
});
const balancing = (draw: Draw): PodOptions =>
  draw(2) === 0
    ? {}
    : draw(3) === 0
      ? { expert_balancing: { policy: 'mirrored', redundant_slots: pick(draw, 8, EXPERTS), period_ms: 10, windows: 1 } }
      : { expert_balancing: { redundant_slots: pick(draw, 2, 4), period_ms: pick(draw, 10, 20), windows: 1 } };

const POOLS: Readonly<Record<string, (draw: Draw) => PodOptions>> = {
  colocated: (draw) => {
    const dp = 1 + draw(4);
    return { topology: `colocated:dp=${dp}`, workers: 1 + draw(dp) };
  },
  // Ranks of a group share a worker or not.
  'colocated-tp': (draw) => {
    const dp = 1 + draw(2);
    return draw(3) === 0 ? { topology: 'colocated:dp=2,oproj=2', workers: dp } : { topology: `colocated:dp=${dp},tp=2`, workers: 1 + draw(2 * dp) };
  },
  'prefix-sharing': (draw) => ({ topology: `colocated:dp=${2 + draw(2)}`, workers: 2, prefix_sharing: true, link_bytes_per_s: 1e12 }),
  balanced: (draw) => ({
    topology: 'colocated:dp=3',
    workers: 1 + draw(3),
    expert_balancing: { redundant_slots: 3 * (1 + draw(2)), period_ms: pick(draw, 10, 20), windows: 1 },
  }),
  'prefill-decode': (draw) => ({
    topology: pick(draw, 'pd:prefill=1,decode=1', 'pd:prefill=2,decode=1', 'pd:prefill=1,decode=1xdp2', 'pd:prefill=1xdp2,decode=2'),
    workers: 1 + draw(2),
    ...lending(draw),
  }),
  mixed: (draw) => ({ topology: 'mixed:colocated=1xdp1,prefill=1xdp1,decode=1xdp1', workers: 1 + draw(3), ...lending(draw) }),
  'moe-attention': (draw) => ({
    topology: pick(draw, 'moe-attention:domains=1x2,experts=2', 'moe-attention:domains=2x1,experts=2'),
    workers: 1 + draw(3),
    ...balancing(draw),
  }),
  'moe-attention-alone': (draw) => ({ topology: 'moe-attention:domains=1x2,experts=1', workers: 1 + draw(3), micro_batches: pick(draw, 1, 2) }),
  // Each NPU on a worker of its own, and little room for experts: attention NPUs may take the roles of expert NPUs.
  'moe-attention-apart': (draw) => {
    const [topology, workers] = pick(draw, ['1x3,experts=2', 5], ['3x1,experts=2', 5], ['1x2,experts=2', 4]) as [string, number];
    const redundant_slots = pick(draw, 2, 4);
    return {
      topology: `moe-attention:domains=${topology}`,
      workers,
      ...(draw(3) === 0 && { expert_balancing: { redundant_slots, period_ms: pick(draw, 10, 20), windows: 1 } }),
    };
  },
  'moe-attention-domains': (draw) => ({
    topology: pick(draw, 'moe-attention:domains=1x2,experts=2', 'moe-attention:domains=2x1,experts=2', 'moe-attention:domains=2x2,experts=2'),
    workers: 1 + draw(3),
    schedule: 'domains',
    ...balancing(draw),
  }),
  'scaled-domains': (draw) => ({
    topology: pick(draw, 'moe-attention:domains=1x2,experts=2', 'moe-attention:domains=2x1,experts=2'),
    workers: 1 + draw(3),
    schedule: 'domains',
    scale_max: { attention: 4, experts: 4 },
    scale_min: { experts: 2 },
    ...balancing(draw),
  }),
  scaled: (draw) => ({
    topology: pick(draw, 'colocated:dp=2', 'colocated:dp=1'),
    workers: 1 + draw(2),
    scale_max: { attention: 3 },
    ...(draw(3) === 0 && { expert_balancing: { redundant_slots: 6, period_ms: 10, windows: 1 } }),
  }),
  'scaled-experts': (draw) => ({
    topology: pick(draw, 'moe-attention:domains=1x2,experts=2', 'moe-attention:domains=1x1,experts=3'),
    workers: 1 + draw(3),
    scale_max: { attention: 3, experts: 4 },
    scale_min: { experts: 2 },
    ...balancing(draw),
  }),
  'scaled-sides': (draw) => {
    const executor = draw(2);
    return {
      topology: pick(draw, 'pd:prefill=1,decode=1', 'pd:prefill=1xdp2,decode=1xdp2'),
      workers: 1 + draw(2),
      scale_max: { executor, attention: 3 },
      ...lending(draw),
    };
  },
  'prefill-moe-attention': (draw) => ({ topology: 'pd:prefill=1,decode=1xdomains1x2experts2', workers: 1 + draw(3), ...lending(draw) }),
};

export const TOPOLOGIES: readonly string[] = Object.keys(POOLS);

/** Phases that only some of them have. */
const PHASES_OF: Partial<Readonly<Record<Phase, readonly string[]>>> = {
  'kv-transfer': ['prefill-decode', 'prefix-sharing', 'mixed', 'prefill-moe-attention', 'scaled-sides'],
  rebalance: ['balanced', 'moe-attention', 'moe-attention-apart', 'moe-attention-domains', 'scaled-experts', 'scaled-domains'],
  scaling: ['scaled', 'scaled-experts', 'scaled-domains', 'scaled-sides'],
};

/** Those of the names in which the phase may come; all, where it comes in none of them. */
export function topologiesWith(phase: Phase | 'time' | 'client', names: readonly string[]): readonly string[] {
  const having = phase === 'time' || phase === 'client' ? undefined : PHASES_OF[phase];
  const found = having === undefined ? names : names.filter((name) => having.includes(name));
  return found.length > 0 ? found : names;
}

/** What trained MTP layers draft right. */
const FORESEEN = 0.7;

/** Drafts that the next step verifies, right ones and wrong ones. */
function drafting(draw: Draw): PodOptions {
  if (draw(3) > 0) return {};
  const how = { num_speculative_tokens: 1 + draw(3), adaptive: draw(2) === 0 };
  if (draw(2) === 0) return { speculative_config: { method: 'ngram', prompt_lookup_min: 1, prompt_lookup_max: 3, ...how } };
  return { hash_foreseeable: FORESEEN, speculative_config: { method: 'mtp', ...how } };
}

/** A pod of the name's kind. */
export function drawPod(name: string, random: SeededRandom): PodOptions {
  const draw: Draw = (limit) => random.below(limit);
  const pod = (POOLS[name] as (draw: Draw) => PodOptions)(draw);
  const workers = pod.workers ?? 1;
  return {
    ...pod,
    // The first is on the control thread, each other one on a worker.
    job_executors: 1 + draw(workers + 1),
    max_batch_tokens: pick(draw, 8, 64, 256),
    max_batch_requests: pick(draw, 2, 64),
    ...(draw(3) === 0 && { kv_blocks: 12 + draw(8) }),
    ...(draw(5) === 0 && pod.prefix_sharing !== true && { prefix_caching: false }),
    ...(draw(3) === 0 && { async_scheduling: false }),
    load_balancing: pick(draw, 'auto', 'packed', 'least_kv', 'round_robin'),
    ...(draw(12) === 0 && { max_queued: 3 }),
    ...drafting(draw),
  };
}
