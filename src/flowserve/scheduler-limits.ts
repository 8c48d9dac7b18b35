/** What a pod's plan bounds each DP group's scheduler by. @module */
import type { SchedulerLimits } from '../../actors/policies/scheduler-limits.ts';
import { numericsKey } from '../protocol/numerics.ts';
import { offersOf } from './layouts/step-layout.ts';
import type { AnyPodPlan } from './pod-plan.ts';

export function schedulerLimits({ options, config }: AnyPodPlan): SchedulerLimits {
  const { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests, dram_blocks, cache_costs } = options;
  const { prefix_caching, prefix_sharing, async_scheduling, scheduling_policy, kv_transfer, speculative } = options;
  const numerics = numericsKey(options);
  return {
    ...(numerics !== '' && { numerics }),
    kv_blocks,
    kv_block_size,
    batch_tokens_max: max_batch_tokens,
    batch_requests_max: max_batch_requests,
    has_prefix_cache: prefix_caching,
    dram_blocks: prefix_caching ? dram_blocks : 0,
    cache_costs,
    shares_prefixes: prefix_sharing,
    is_asynchronous: async_scheduling,
    has_priorities: scheduling_policy === 'priority',
    lends_by_layer: kv_transfer === 'layer',
    offers_max: offersOf({ max_batch_requests }),
    ...(speculative !== undefined && { drafts_max: speculative.tokens, drafts_as_pays: speculative.adaptive }),
    ...(speculative?.method === 'mtp' && { foresight: speculative.tokens, foreseers: config.draftLayers ?? 1 }),
  };
}
