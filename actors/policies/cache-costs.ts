/**
 * Whether a hit is worth fetching: what lies in DRAM or at another task executor comes over a link, and a fast NPU may compute it sooner
 * (the cost model of DeepServe §4.2, which is not published; as in MemServe, fetch only if that takes no longer than the computation saved).
 * All numbers are given from outside: measured live, made up on a virtual clock.
 * @module
 */

export type CacheCosts = {
  /** Of a transfer, whatever its size, and of each of its blocks. */
  readonly dram_fixed_us: number;
  readonly dram_us_per_block: number;
  readonly remote_fixed_us: number;
  readonly remote_us_per_block: number;
  /** Of computing a token, and of its attention to each token before it. */
  readonly compute_us_per_token: number;
  readonly attention_us_per_position: number;
};

export type CacheSource = 'dram' | 'remote';

export const fetchTime_us = (costs: CacheCosts, source: CacheSource, blocks: number): number =>
  source === 'dram' ? costs.dram_fixed_us + blocks * costs.dram_us_per_block : costs.remote_fixed_us + blocks * costs.remote_us_per_block;

/** Of `count` tokens from position `start` on. */
export const computeTime_us = (costs: CacheCosts, start: number, count: number): number =>
  count * costs.compute_us_per_token + count * (start + (count - 1) / 2) * costs.attention_us_per_position;

/** Whether `blocks` are better copied out and back than computed again from the first position on. */
export const isWorthSwapping = (costs: CacheCosts, blocks: number, block_size: number): boolean =>
  blocks > 0 && 2 * fetchTime_us(costs, 'dram', blocks) <= computeTime_us(costs, 0, blocks * block_size);

/** Of `blocks` that follow `start` known positions. */
export const isWorthFetching = (costs: CacheCosts, source: CacheSource, blocks: number, block_size: number, start: number): boolean =>
  blocks > 0 && fetchTime_us(costs, source, blocks) <= computeTime_us(costs, start, blocks * block_size);
