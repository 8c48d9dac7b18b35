/** What is told of NPUs that tell nothing themselves: their worker is lost, or has not reported yet. @module */
import { NO_DRAFTS, type NpuReport } from '../protocol/threads.ts';
import type { NpuPlace } from '../protocol/topology.ts';

/** What a lost NPU held is free: its requests have failed, and its successor starts with nothing. */
const HOLDS_NOTHING = {
  state: 'lost',
  kv_blocks_used: 0,
  kv_blocks_cached: 0,
  kv_blocks_mapped_out: 0,
  dram_blocks_used: 0,
  dram_blocks_mapped_out: 0,
  requests_running: 0,
  requests_waiting: 0,
  kv_lent: 0,
  kv_expected: 0,
  kv_transfers_open: 0,
  kv_blocks_held: 0,
  reply_bytes: 0,
} as const;
const COUNTED_NOTHING = {
  ...{
    steps: 0,
    tokens_prefilled: 0,
    tokens_decoded: 0,
    preemptions: 0,
    drafting: NO_DRAFTS,
    prefix_queries: 0,
    prefix_hits: 0,
    kv_leases_expired: 0,
    blocks_swapped_out: 0,
    blocks_swapped_in: 0,
    hits_refused: 0,
    blocks_populated: 0,
    blocks_lent: 0,
    remote_hits: 0,
    remote_hits_refused: 0,
    remote_hits_missed: 0,
    kv_blocks_held_max: 0,
    fields_written: 0,
    fields_stale: 0,
  },
  ...{ dispatches_written: 0, dispatches_served: 0, dispatches_refused: 0, rows_damaged: 0, pulled_bytes: 0, reply_bytes_max: 0 },
  ...{ decode_steps_us: [], decode_steps_us_sum: 0, step_gaps_us: [], step_gaps_us_sum: 0 },
} as const;

/** Of one that has never reported. */
export const unheardReport = ({ id: npu, kind }: NpuPlace, kv_blocks: number): NpuReport => ({
  npu,
  kv_blocks: kind === 'attention' ? kv_blocks : 0,
  die: npu,
  ...HOLDS_NOTHING,
  ...COUNTED_NOTHING,
});

/** Of one that is lost: what it has counted is as last heard. */
export const lostReport = (last: NpuReport, die: number): NpuReport => ({ ...last, ...HOLDS_NOTHING, die });

export const isLostReport = ({ state }: NpuReport): boolean => state === HOLDS_NOTHING.state;
