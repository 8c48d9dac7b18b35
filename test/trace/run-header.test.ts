/** What a trace says of its run: every option that changes what a run does. */
import { afterAll, describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { podOptionsSchema } from '../../src/options/options.ts';
import { parseRunHeader, type RunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from './files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

/** Those that the header names beside its `options`, and those that say where things go and how large memory may be: no run differs by them. */
const BESIDE = ['model', 'topology', 'npus', 'data_parallel_size', 'workers', 'clock', 'seed', 'kernels', 'record_prompts'];
/** vLLM's words for `expert_balancing`; and `scale_max`, and `scale_min`, which are the topology's, beside `scaled`. */
const ALIASES = ['enable_eplb', 'eplb_config', 'scale_max', 'scale_min'];
const NOTHING_DIFFERS = [
  'record',
  'record_when_full',
  'record_routing',
  'segment_bytes',
  'memory_bytes',
  'kv_checks',
  'row_checks',
  'weight_checks',
  'weight_scrub_s',
];

let runs = 0;
async function headerOf(options: PodOptions): Promise<RunHeader> {
  const path = folder.file(`${++runs}.trace`);
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 1, ...options, record: path });
  await pod.close();
  using reader = TraceReader.open(path);
  return parseRunHeader(reader.header, path);
}

describe('the header of a run', () => {
  it('should have every option of a pod, as it was given or as it came to be', async () => {
    const given = {
      ...{ kv_blocks: 300, dram_blocks: 40, kv_block_size: 32, max_batch_tokens: 70, max_batch_requests: 5, max_queued: 50, job_executors: 2 },
      ...{ npu_workers: [1, 0, 1, 0, 1], dram_bytes_per_s: 1e9, link_bytes_per_s: 2e9, prefix_sharing: true, async_scheduling: false },
      ...{ scheduling_policy: 'fcfs', load_balancing: 'cost_model', long_prompt_groups: 1, long_prompt_tokens: 99 },
      ...{ kv_lease_ms: 1_234, kv_fabric: 'tcp', kv_transfer: 'layer', average_routing: true },
      expert_balancing: { policy: 'hierarchical', redundant_slots: 7, period_ms: 8_000, windows: 3, threshold: 1.5, nodes: 1 },
      speculative_config: { method: 'ngram', num_speculative_tokens: 2, prompt_lookup_max: 4, prompt_lookup_min: 3, adaptive: false },
      hash_foreseeable: 0.5,
    } as const satisfies PodOptions;
    const { options, topology } = await headerOf({
      ...given,
      npu_workers: [...given.npu_workers],
      topology: 'pd:prefill=1xdp3,decode=1xdp2oproj2',
      workers: 2,
      recovery: 'restart',
    });
    expect(options).toMatchObject({ ...given, recovery: 'restart' });
    expect(topology).toBe('pd:prefill=1xdp3,decode=1xdp2oproj2');
    const named = new Set([...Object.keys(options), ...BESIDE, ...ALIASES, ...NOTHING_DIFFERS]);
    // Of a topology that has experts apart alone, of real kernels, and of workers that are lost alone, not of a pod that begins anew with each.
    expect(
      Object.keys(podOptionsSchema.shape)
        .filter((name) => !named.has(name))
        .sort(),
    ).toEqual(['combine_dtype', 'degraded', 'dispatch_dtype', 'kv_cache_dtype', 'micro_batches', 'rehome_after_ms', 'respawn', 'role_switch', 'schedule']);
    const apart = { schedule: 'dataflow', micro_batches: 2, respawn: false, degraded: true, role_switch: 'background' } as const;
    expect((await headerOf({ topology: 'moe-attention:domains=2x1,experts=2', workers: 2, ...apart })).options).toMatchObject(apart);
    const patient = { rehome_after_ms: 77, expert_balancing: given.expert_balancing } as const;
    expect((await headerOf({ npus: 2, workers: 2, ...patient })).options).toMatchObject({ rehome_after_ms: 77 });
    expect(await headerOf({ npus: 2, scale_max: { attention: 3 } })).toMatchObject({
      topology: 'colocated:dp=3',
      options: { scaled: { executor: 0, groups: 2, experts: null } },
    });
    const numerics = { kv_cache_dtype: 'int8', dispatch_dtype: 'int8', combine_dtype: 'int8' } as const;
    expect((await headerOf({ kernels: 'real', ...numerics })).options).toMatchObject(numerics);
  });

  it('should be read where it is older than an option', async () => {
    const { options, ...run } = await headerOf({ workers: 1 });
    const { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued, job_executors } = options;
    const old = { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued, job_executors };
    expect(parseRunHeader({ ...run, options: old }, 'old').options).toEqual({ ...old, dram_blocks: 0 });
  });
});
