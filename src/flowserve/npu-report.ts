/**
 * What an NPU tells of itself: its group's scheduler, its KV blocks, its dispatches, its steps.
 * @module
 */
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import type { BlockPool } from '../fabric/block-pool.ts';
import { NO_DRAFTS, type NpuReport } from '../protocol/threads.ts';
import type { Exchange } from '../xccl/exchange.ts';
import type { StepTimes } from './steps/step-times.ts';

/** Of what a group's first rank tells for all. */
const NO_SCHEDULER = {
  scheduler: {
    ...{
      cache: {
        blocks: 0,
        used: 0,
        cached: 0,
        mapped_out: 0,
        mapped_out_dram: 0,
        positions_queried: 0,
        positions_hit: 0,
        dram_blocks_used: 0,
        transfers: { blocks_swapped_out: 0, blocks_swapped_in: 0, blocks_populated: 0 },
      },
      running: 0,
      waiting: 0,
      step: 0,
    },
    handoffs: { lent: 0, expected: 0, leases_expired: 0, loans: { blocks_lent: 0 } },
    coming: { hits_refused: 0, wants: { hits: 0, refused: 0, missed: 0 } },
    ...{ tokens_prefilled: 0, tokens_decoded: 0, preemptions: 0 },
    drafting: { counts: NO_DRAFTS },
  },
} as const;

/** Of an NPU without KV. */
const NO_BLOCKS = { used: 0, high_water: 0 } as const;

/** `scheduler`: null where another NPU tells of it, or there is none; `blocks`: null where there is no KV. */
type Parts = {
  readonly scheduler: StepScheduler | null;
  readonly blocks: Pick<BlockPool, 'used' | 'high_water'> | null;
  readonly exchange: Exchange;
  readonly times: StepTimes;
};

/** `kv_transfers_open`: offers and pulls of its memory that have not ended. */
export function npuReport(npu: number, state: string, kv_transfers_open: number, { scheduler: own, blocks: held, exchange, times }: Parts): NpuReport {
  const scheduler = own ?? NO_SCHEDULER.scheduler;
  const blocks = held ?? NO_BLOCKS;
  const { endpoint, replies } = exchange;
  const { decodes, gaps } = times;
  exchange.sweepReplies();
  return {
    npu,
    state,
    kv_blocks: scheduler.cache.blocks,
    kv_blocks_used: scheduler.cache.used,
    kv_blocks_cached: scheduler.cache.cached,
    kv_blocks_mapped_out: scheduler.cache.mapped_out,
    requests_running: scheduler.running,
    requests_waiting: scheduler.waiting,
    steps: scheduler.step,
    tokens_prefilled: scheduler.tokens_prefilled,
    tokens_decoded: scheduler.tokens_decoded,
    preemptions: scheduler.preemptions,
    drafting: { ...scheduler.drafting.counts, accepted_at: [...scheduler.drafting.counts.accepted_at] },
    prefix_queries: scheduler.cache.positions_queried,
    prefix_hits: scheduler.cache.positions_hit,
    kv_lent: scheduler.handoffs.lent,
    kv_expected: scheduler.handoffs.expected,
    kv_leases_expired: scheduler.handoffs.leases_expired,
    kv_transfers_open,
    dram_blocks_used: scheduler.cache.dram_blocks_used,
    dram_blocks_mapped_out: scheduler.cache.mapped_out_dram,
    blocks_swapped_out: scheduler.cache.transfers.blocks_swapped_out,
    blocks_swapped_in: scheduler.cache.transfers.blocks_swapped_in,
    hits_refused: scheduler.coming.hits_refused,
    blocks_populated: scheduler.cache.transfers.blocks_populated,
    blocks_lent: scheduler.handoffs.loans.blocks_lent,
    remote_hits: scheduler.coming.wants.hits,
    remote_hits_refused: scheduler.coming.wants.refused,
    remote_hits_missed: scheduler.coming.wants.missed,
    die: endpoint.die,
    kv_blocks_held: blocks.used,
    kv_blocks_held_max: blocks.high_water,
    fields_written: endpoint.counters.writes,
    fields_stale: endpoint.counters.stale,
    dispatches_written: exchange.dispatches,
    dispatches_served: exchange.served,
    dispatches_refused: exchange.refused,
    rows_damaged: exchange.damaged,
    pulled_bytes: endpoint.counters.pulled_bytes,
    reply_bytes: replies.used,
    reply_bytes_max: replies.high_water,
    decode_steps_us: decodes.counts,
    decode_steps_us_sum: decodes.sum_us,
    step_gaps_us: gaps.counts,
    step_gaps_us_sum: gaps.sum_us,
  };
}
