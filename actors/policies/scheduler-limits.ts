/** What bounds a DP group's scheduler, and how it goes about; and what follows of it for its cache. @module */
import type { Sequence, Stage } from '../../src/protocol/messages.ts';
import type { CacheCosts } from './cache-costs.ts';
import type { DraftLimits } from './drafting.ts';
import { type CacheLimits, KV_EVENT_BATCHES } from './relational-tensor-cache.ts';

export type SchedulerLimits = DraftLimits & {
  /** Drafts are computed, so many of a sequence in one step at most, from KV of their own in the same blocks; missing: they are not. */
  readonly foresight?: number;
  readonly kv_blocks: number;
  readonly kv_block_size: number;
  /** By which KV comes about, in the names of its blocks; missing: as the model has it. */
  readonly numerics?: string;
  readonly batch_tokens_max: number;
  readonly batch_requests_max: number;
  /** Whether a sequence begins with the KV of others that began alike. */
  readonly has_prefix_cache: boolean;
  /** Blocks of host DRAM below the NPU's HBM, and what moving them costs; 0 and null: none. */
  readonly dram_blocks: number;
  readonly cache_costs: CacheCosts | null;
  /** Whether it takes prefixes from other groups that have them, and lends to them; by `cache_costs`. */
  readonly shares_prefixes: boolean;
  /** Whether a step is planned while the one before it runs. */
  readonly is_asynchronous: boolean;
  /** False: first come, first served, whatever the priorities (the baseline). */
  readonly has_priorities: boolean;
  /** Whether prefill lends the KV of a prompt's last step while that is computed. */
  readonly lends_by_layer: boolean;
  /** Sequences whose KV may be lent at once. */
  readonly offers_max: number;
};

/** For so many steps a sequence can be overtaken by later ones of a priority that is better by 1: at 10 to 50 ms a step about a second. */
export const PATIENCE_STEPS = 64;

/**
 * Whose turn it is, the lower one's: of one that comes after `steps` steps. Who was under way in another group has waited there, and has a caller who reads along:
 * his turn is as if he had come so much sooner.
 */
export function rankOf({ priority, output }: Sequence, stage: Stage, steps: number, has_priorities: boolean): number {
  const ahead = stage === 'whole' && output.length > 0 ? PATIENCE_STEPS : 0;
  return has_priorities ? steps + PATIENCE_STEPS * priority - ahead : -ahead;
}

/** The step that runs, and the one that begins when it ends. */
export const STEPS_LAUNCHED_MAX = 2;

/**
 * Cold blocks are copied to DRAM while less than the one share of HBM could be given out and nothing be lost, until it is the other. Early, since a prompt takes
 * all of its blocks at once, and copies cost an NPU nothing.
 */
const SWAP_LOW = 3 / 4;
const SWAP_HIGH = 1;
/** Of one transfer. */
const SWAP_BLOCKS_MAX = 32;

export function cacheLimits({ kv_blocks: blocks, kv_block_size: block_size, dram_blocks, numerics }: SchedulerLimits): CacheLimits {
  const swap_low = Math.ceil(blocks * SWAP_LOW);
  return {
    blocks,
    block_size,
    dram_blocks,
    kv_event_batches: KV_EVENT_BATCHES,
    swap_low,
    swap_high: Math.ceil(blocks * SWAP_HIGH),
    swap_blocks_max: SWAP_BLOCKS_MAX,
    ...(numerics !== undefined && { numerics }),
  };
}
