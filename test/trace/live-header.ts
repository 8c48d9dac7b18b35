/** What a trace of a live run that a test makes up begins with. @module */
import { runHeader } from '../../src/trace/run-header.ts';

export const liveHeader = runHeader({
  clock: 'live',
  seed: null,
  kernels: 'real',
  model: { name: 'tiny', digest: '5f' },
  topology: 'colocated:dp=1',
  npus: 1,
  workers: 1,
  options: {
    ...{ dram_blocks: 0, kv_blocks: 1, kv_block_size: 16, max_batch_tokens: 1, max_batch_requests: 1, max_queued: 1, job_executors: 1 },
    ...{ npu_workers: [0], spare_workers: 0, prefix_caching: true, prefix_sharing: false, async_scheduling: true, enforce_eager: false },
    ...{ scheduling_policy: 'priority', load_balancing: 'auto', long_prompt_groups: 0, long_prompt_tokens: 1 },
    ...{ kv_lease_ms: 1, kv_fabric: 'memory', kv_transfer: 'request' },
  },
});
