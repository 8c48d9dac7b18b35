/** Figures of the fake pod: none is 0 that a metric shows, but those of parts that it does not have. @module */
import { NO_DRAFTS } from '../../src/protocol/threads.ts';
import type { LinkStats, PodStats, RegionStats, ThreadStats } from '../../src/stats.ts';

const PROBES = { probes_passed: 7, probes_broken: 1, probe_us_max: 90 };
const REGIONS: readonly RegionStats[] = [
  { owner: 'pod', kind: 'control', base: 0, bytes: 100, state: 'held', epoch: 1 },
  { owner: 'npu/0', kind: 'hbm', base: 100, bytes: 600, state: 'held', epoch: 2 },
  { owner: 'die/1', kind: 'hbm', base: 700, bytes: 300, state: 'quarantined', epoch: 1 },
];

const THREADS: readonly ThreadStats[] = [
  { thread: 0, name: 'caller', state: 'held', epoch: 1, wakes: 5, dropped: 0, waits_for: [] },
  { thread: 3, name: 'thread/3', state: 'quarantined', epoch: 2, wakes: 0, dropped: 4, waits_for: [] },
];

const SILENT_LINK: LinkStats = {
  ...{ from: 'caller', to: 'control', lane: 'control', frames: 0, bytes: 0, full: 0, wakes: 0, waiting: 0, waiting_bytes: 0, stalled_ms: 0 },
  ...{
    ring_free_bytes: 64,
    slab_free_bytes: 0,
    slab_bytes: 0,
    slab_bytes_max: 0,
    received_frames: 0,
    received_bytes: 0,
    stale: 0,
    latencies_us: [],
    latency_us_sum: 0,
  },
};
const RECEIVED = { received_frames: 6, received_bytes: 80, stale: 3, latencies_us: [0, 2, 3, 1], latency_us_sum: 14 };
/** One that has carried something, and one that has not. */
const LINKS: readonly LinkStats[] = [
  SILENT_LINK,
  { ...SILENT_LINK, lane: 'data', frames: 7, bytes: 90, full: 2, wakes: 5, waiting: 1, stalled_ms: 1_500, slab_free_bytes: 32, ...RECEIVED },
];

/** What the pod says of itself. */
export type FakeFigures = Pick<
  PodStats,
  'requests_finished' | 'prompt_tokens' | 'generation_tokens' | 'expert_balancing' | 'suspicions' | 'experts_lost' | 'experts_masked' | 'recoveries' | 'loops'
> & {
  readonly model: string;
  readonly running: number;
  readonly disaggregated: boolean;
};

export function fakeStats(pod: FakeFigures): PodStats {
  const npu = {
    npu: 0,
    kind: 'attention' as const,
    task_executor: 0,
    worker: 0,
    gone: false,
    state: 'idle',
    kv_blocks: 100,
    kv_blocks_used: pod.running,
    requests_running: pod.running,
    requests_waiting: 0,
  };
  const figures = {
    ...{ role: 'colocated' as const, requests_running: pod.running, requests_waiting: 0, requests_finished: pod.requests_finished },
    ...{ prompt_tokens: pod.prompt_tokens, generation_tokens: pod.generation_tokens, kv_blocks: 100, kv_blocks_used: pod.running },
    ...{
      kv_blocks_cached: 1,
      prefix_queries: 40,
      prefix_hits: 16,
      preemptions: 0,
      drafting: { drafts: 4, draft_tokens: 9, accepted_tokens: 5, accepted_at: [3, 2] },
    },
    ...{ kv_lent: 2, kv_expected: 1, kv_leases_expired: 3 },
    ...{ remote_hits: 4, remote_hits_refused: 5, remote_hits_missed: 6 },
  };
  return {
    model: pod.model,
    uptime_seconds: 10,
    requests_running: pod.running,
    requests_waiting: 0,
    requests_finished: pod.requests_finished,
    prompt_tokens: pod.prompt_tokens,
    generation_tokens: pod.generation_tokens,
    kv_block_size: 16,
    task_executors: [{ ...figures, task_executor: 0, dp_groups: [0] }],
    dp_groups: [
      { ...figures, dp_group: 0, task_executor: 0, npus: [0], gone: false },
      ...(pod.disaggregated ? [{ ...figures, dp_group: 1, task_executor: 1, npus: [1], gone: false }] : []),
    ],
    npus: [
      {
        ...npu,
        steps: 0,
        ...{ tokens_prefilled: 0, tokens_decoded: 0 },
        ...{ preemptions: 0, drafting: NO_DRAFTS },
        kv_blocks_cached: 1,
        kv_blocks_mapped_out: 0,
        prefix_queries: 40,
        prefix_hits: 16,
        kv_lent: 2,
        kv_expected: 1,
        kv_leases_expired: 3,
        kv_transfers_open: 2,
        dram_blocks_used: 0,
        dram_blocks_mapped_out: 0,
        blocks_swapped_out: 0,
        blocks_swapped_in: 0,
        hits_refused: 0,
        blocks_populated: 0,
        blocks_lent: 0,
        ...{ remote_hits: 0, remote_hits_refused: 0, remote_hits_missed: 0 },
        die: 0,
        kv_blocks_held: 2,
        kv_blocks_held_max: 3,
        fields_written: 40,
        fields_stale: 1,
        dispatches_written: 21,
        dispatches_served: 19,
        dispatches_refused: 4,
        rows_damaged: 1,
        pulled_bytes: 5_120,
        reply_bytes: 256,
        reply_bytes_max: 768,
        decode_steps_us: [0, 0, 3, 1],
        decode_steps_us_sum: 17,
        step_gaps_us: [2, 1],
        step_gaps_us_sum: 2.5,
        hbm_bytes: 0,
      },
    ],
    kv_links: [{ source: 0, target: 1, fabric: 'tcp', started: 9, done: 6, bytes: 4_096, wasted_bytes: 512, failed: { refused: 2, stale: 0 }, ...PROBES }],
    ...{ expert_loads: [], scaling: null, expert_balancing: pod.expert_balancing, suspicions: pod.suspicions },
    ...{
      experts_lost: pod.experts_lost,
      experts_masked: pod.experts_masked,
      recoveries: pod.recoveries,
      control_recoveries: [],
      control_threads_lost: 2,
      loops: pod.loops,
    },
    ...{ fabric: { links: LINKS, threads: THREADS }, unexpected_messages: [], memory: { total_bytes: 1_000, regions: REGIONS } },
    garbage: [{ worker: 0, collections: 5, collections_chosen: 3, collections_us_sum: 9_000, collections_us_max: 4_000 }],
  };
}
