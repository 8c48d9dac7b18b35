/** What a topology asks for is checked against the model, the workers and the memory before anything starts, and says what would be right. */
import { describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { withPod } from './pods.ts';

const PD = { topology: 'pd', workers: 2 } as const;

describe('a topology', () => {
  it.each<[PodOptions, RegExp, string]>([
    [{ topology: 'colocated:dp=60' }, /task executor 0 \(colocated\) has dp 60 × tp 1 = 60 NPUs for 32 experts a layer; each NPU owns at least one/, 'npus'],
    [{ topology: 'pd:prefill=1xdp9,decode=1xdp33' }, /task executor 1 \(decode\) has dp 33 × tp 1 = 33 NPUs for 32 experts a layer/, 'topology'],
    [{ topology: 'pd', npus: 3 }, /'pd:prefill=1xdp1,decode=1xdp1' has 2 NPUs, npus says 3: leave it out/, 'topology'],
    [{ npus: 2, data_parallel_size: 3 }, /'colocated:dp=2' has 2 DP groups, not 3: leave it out/, 'data_parallel_size'],
    [{ topology: 'pd', data_parallel_size: 1 }, /decode=1xdp1' has 2 DP groups, not 1: leave it out/, 'data_parallel_size'],
    [{ topology: 'pd:prefill=32xdp8,decode=32xdp9' }, /has 544 NPUs, at most 512 are possible/, 'topology'],
    [{ topology: 'pd', workers: 4 }, /workers: 4 threads for 2 NPUs/, 'workers'],
    [{ ...PD, npu_workers: [1] }, /npu_workers: it names workers of 1 NPUs; it names the worker, from 0 to 1, of each of the 2 NPUs in order/, 'npu_workers'],
    [{ ...PD, npu_workers: [1, 2] }, /npu_workers: there is no worker 2; it names/, 'npu_workers'],
    [{ ...PD, npu_workers: [1, 1] }, /npu_workers: worker 0 hosts no NPU; it names/, 'npu_workers'],
    [{ topology: [{ role: 'prefill', dp: 1 }] }, /what its prefill executors compute goes nowhere: it needs a decode executor/, 'topology'],
    [
      { clock: 'virtual', npus: 2, long_prompt_groups: 1 },
      /long_prompt_groups: 1 for very .+ 'colocated:dp=2' has 2 in a colocated executor, chosen by packed: use load_balancing 'cost_model' or/,
      'long_prompt_groups',
    ],
    [
      { clock: 'virtual', topology: 'pd:prefill=2xdp2,decode=1', long_prompt_groups: 2 },
      /has 2 in a prefill executor, chosen by cost_model; 1 in a decode executor, chosen by least_kv: .+ with dp 3 or more/,
      'long_prompt_groups',
    ],
    [{ npus: 2, kv_transfer: 'layer' }, /how prefill executors hand KV over, and topology 'colocated:dp=2' has none; with some, such as 'pd:/, 'kv_transfer'],
    [
      { npus: 2, kv_lease_ms: 600_000 },
      /600000 is how long KV is lent, and nobody lends any: topology 'colocated:dp=2' has no prefill .+ or with scale_max it/,
      'kv_lease_ms',
    ],
    [
      { topology: 'pd:prefill=1,decode=1', link_bytes_per_s: 1e9 },
      /needs prefix_sharing, scale_max or clock: 'virtual': else nothing is weighed by it/,
      'link_bytes_per_s',
    ],
    [{ topology: 'pd:prefill=1,decode=2', prefix_sharing: true }, /between DP groups in which requests begin, and .+decode=2xdp1' has one/, 'prefix_sharing'],
    [{ npus: 2, prefix_sharing: true, prefix_caching: false }, /is of what is cached, and prefix_caching is off: leave out one of the two/, 'prefix_sharing'],
    [{ dram_blocks: 8, prefix_caching: false }, /8 blocks for what is cached, and prefix_caching is off: leave out one of the two/, 'dram_blocks'],
    [{ dram_bytes_per_s: 1e9 }, /needs dram_blocks: without any nothing moves between the two/, 'dram_bytes_per_s'],
    [{ long_prompt_tokens: 500 }, /needs long_prompt_groups: without any a long prompt goes where others go/, 'long_prompt_tokens'],
    [{ record_when_full: 'stop' }, /needs record or record_routing: without one of them nothing is recorded/, 'record_when_full'],
    [
      { clock: 'virtual', topology: 'colocated:dp=16,oproj=16' },
      /oproj 16 for an output projection of 192 columns = 12 panels of 16; each NPU has at least one/,
      'topology',
    ],
    [
      { topology: [{ role: 'colocated', dp: 5, oproj: 2 }] },
      /'colocated:dp=5,oproj=2': a colocated executor has dp 5, which oproj 2 does not divide/,
      'topology',
    ],
    [
      { topology: 'pd:prefill=9xdp3,decode=9xdp4', memory_bytes: 2 ** 30 },
      /the pod needs [\d.]+ MiB, memory_bytes grants 1024\.0 MiB: use fewer NPUs, fewer kv_blocks or larger memory_bytes \(in all: rings .+ \+ weights .+ \+ KV blocks/,
      'null',
    ],
  ])('should be refused with the reason: %o', async (options, why, param) => {
    const error = await createPod(options).then(
      () => null,
      (refusal: unknown) => refusal as { readonly message: string; readonly param: string | null },
    );
    expect(error?.message).toMatch(why);
    expect(String(error?.param)).toBe(param);
  });

  it.each<PodOptions>([
    { npus: 2, prefix_sharing: true, link_bytes_per_s: 1e9, kv_lease_ms: 1_000 },
    { npus: 1, scale_max: { attention: 2 }, link_bytes_per_s: 1e9, kv_lease_ms: 1_000 },
    { clock: 'virtual', topology: 'pd:prefill=1,decode=1', link_bytes_per_s: 1e9, kv_lease_ms: 1_000 },
    { clock: 'virtual', npus: 1, link_bytes_per_s: 1e9 },
  ])('should take how long KV is lent and how fast it moves where either decides something: %o', (options) =>
    withPod(options, async (pod) => {
      expect((await pod.complete([1, 86, 1461], { max_tokens: 2, ignore_eos: true })).usage.completion_tokens).toBe(2);
    }),
  );

  it.each([{ data_parallel_size: 3 }, { npus: 3, data_parallel_size: 3 }, { topology: 'colocated:dp=3,tp=2', data_parallel_size: 3 }])(
    'should have as many DP groups as vLLM’s name for them says: %o',
    (options) => withPod({ clock: 'virtual', kernels: 'hash', ...options }, async (pod) => expect((await pod.stats()).dp_groups).toHaveLength(3)),
  );

  it('should put NPUs on the workers that it is told to', () =>
    withPod(
      {
        ...PD,
        npu_workers: [1, 0],
        topology: [
          { role: 'prefill', dp: 1 },
          { role: 'decode', dp: 1 },
        ],
      },
      async (pod) => {
        expect((await pod.stats()).npus.map(({ worker }) => worker)).toEqual([1, 0]);
        const { choices } = await pod.complete('Once', { max_tokens: 4, ignore_eos: true });
        expect(choices[0]?.token_ids.length).toBe(4);
        // The first token comes from prefill, the rest from decode.
        expect((await pod.stats()).npus.map(({ tokens_decoded }) => tokens_decoded)).toEqual([1, 3]);
      },
    ));
});
