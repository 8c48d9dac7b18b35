/** What bounds a DP group's scheduler, and how it goes about. @module */

export type SchedulerLimits = {
  readonly kv_blocks: number;
  readonly kv_block_size: number;
  readonly batch_tokens_max: number;
  readonly batch_requests_max: number;
  /** Whether a sequence begins with the KV of others that began alike. */
  readonly has_prefix_cache: boolean;
  /** Whether a step is planned while the one before it runs. */
  readonly is_asynchronous: boolean;
  /** False: first come, first served, whatever the priorities (the baseline). */
  readonly has_priorities: boolean;
  /** Sequences whose KV may be lent at once. */
  readonly offers_max: number;
};
