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
  options: { dram_blocks: 0, kv_blocks: 1, kv_block_size: 16, max_batch_tokens: 1, max_batch_requests: 1, max_queued: 1, job_executors: 1 },
});
