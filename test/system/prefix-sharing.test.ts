/** DP groups that take the KV of prefixes from one another: sooner where the link allows it, and no token tells. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Completion, NpuStats, Pod, PodOptions } from '../../src/index.ts';
import { cases, runs } from '../property-runs.ts';
import { withPod } from './pods.ts';

const HASH = { clock: 'virtual', kernels: 'hash' } as const;
const SHARING = { ...HASH, prefix_sharing: true } as const;
const bits = ({ choices }: Completion): unknown => choices.map(({ token_ids, logprobs }) => ({ token_ids, logprobs }));
/** Calls at once. */
const WAVE = 4;
const prefix = Array.from({ length: 512 }, (_, at) => 3 + ((at * 31) % 500));

const sum = async (pod: Pod, figure: keyof NpuStats): Promise<number> => (await pod.stats()).npus.reduce((total, npu) => total + Number(npu[figure] ?? 0), 0);
const heldOf = async (pod: Pod): Promise<readonly number[]> =>
  (await pod.stats()).npus.flatMap(({ kv_blocks_used, kv_transfers_open, kv_blocks_held }) => [kv_blocks_used, kv_transfers_open, kv_blocks_held]);

async function timed(pod: Pod, prompt: readonly number[], data_parallel_rank: number): Promise<{ readonly ttft_ms: number; readonly cached: number }> {
  const generation = pod.generate(prompt, { max_tokens: 2, ignore_eos: true, data_parallel_rank });
  for await (const _chunk of generation);
  const { received, first_token } = generation.times();
  return { ttft_ms: (first_token ?? Number.NaN) - received, cached: generation.usage().cached_tokens };
}

describe('a prefix at another DP group', () => {
  const TOPOLOGIES = ['colocated:dp=2', 'mixed:colocated=2xdp1', 'pd:prefill=2xdp1tp1,decode=1xdp1tp1', 'pd:prefill=1xdp2tp1,decode=1xdp1tp1'];

  it.each(cases(TOPOLOGIES))('should come over the link instead of being computed: %s', async (topology) => {
    await withPod({ ...SHARING, topology }, async (pod) => {
      const cold = await timed(pod, [...prefix, 7], 0);
      const there = await timed(pod, [...prefix, 8], 1);
      expect([cold.cached, there.cached]).toEqual([0, 512]);
      expect(there.ttft_ms).toBeLessThan(cold.ttft_ms);
      expect([await sum(pod, 'remote_hits'), await sum(pod, 'blocks_populated'), await sum(pod, 'blocks_lent')]).toEqual([1, 32, 32]);
      // It has them now itself.
      expect((await timed(pod, [...prefix, 9], 1)).cached).toBe(512);
      expect(await sum(pod, 'remote_hits')).toBe(1);
      // Forgotten everywhere, it is computed anew.
      await pod.resetPrefixCache();
      expect((await timed(pod, [...prefix, 9], 1)).cached).toBe(0);
    });
  });

  it('should come as far as whole blocks go, as from its own cache', async () => {
    await withPod({ ...SHARING, topology: 'colocated:dp=2' }, async (pod) => {
      const odd = prefix.slice(0, 500);
      await timed(pod, [...odd, 7], 0);
      expect([(await timed(pod, [...odd, 8], 1)).cached, (await timed(pod, [...odd, 9], 1)).cached]).toEqual([496, 496]);
    });
  });

  it('should be refused where the link is slower than computing, and not be looked for where groups do not share', async () => {
    await withPod({ ...SHARING, topology: 'colocated:dp=2', link_bytes_per_s: 1e3 }, async (pod) => {
      const cold = await timed(pod, [...prefix, 7], 0);
      const there = await timed(pod, [...prefix, 8], 1);
      expect(there.cached).toBe(0);
      expect(there.ttft_ms).toBeLessThan(cold.ttft_ms * 1.5);
      expect([await sum(pod, 'remote_hits'), await sum(pod, 'remote_hits_refused'), await sum(pod, 'blocks_lent')]).toEqual([0, 1, 0]);
    });
    await withPod({ ...SHARING, prefix_sharing: false, topology: 'colocated:dp=2' }, async (pod) => {
      await timed(pod, [...prefix, 7], 0);
      expect((await timed(pod, [...prefix, 8], 1)).cached).toBe(0);
      expect([await sum(pod, 'remote_hits'), await sum(pod, 'remote_hits_refused')]).toEqual([0, 0]);
    });
  });

  it('should belong to its tenant alone', async () => {
    await withPod({ ...SHARING, topology: 'colocated:dp=2' }, async (pod) => {
      const complete = (cache_salt: string, data_parallel_rank: number): Promise<Completion> =>
        pod.complete([...prefix, 7], { max_tokens: 1, cache_salt, data_parallel_rank });
      await complete('one', 0);
      expect((await complete('another', 1)).usage.cached_tokens).toBe(0);
      expect((await complete('one', 1)).usage.cached_tokens).toBe(512);
    });
  });

  type Call = {
    readonly family: number;
    readonly prompt: number;
    readonly max_tokens: number;
    readonly rank: number;
    readonly cancels: number;
    readonly n: number;
  };
  const call: fc.Arbitrary<Call> = fc.record({
    family: fc.nat(2),
    prompt: fc.integer({ min: 33, max: 320 }),
    max_tokens: fc.integer({ min: 1, max: 12 }),
    rank: fc.integer({ min: -1, max: 1 }),
    /** After so many turns of the event loop; 0: never. */
    cancels: fc.integer({ min: 0, max: 18 }).map((dice) => Math.max(0, dice - 12)),
    n: fc.constantFrom(1, 1, 1, 2),
  });
  const promptOf = ({ family, prompt }: Call): number[] => Array.from({ length: prompt }, (_, at) => 3 + ((family * 397 + at * 31) % 500));

  async function run(pod: Pod, calls: readonly Call[], resets: boolean, hasRanks: boolean): Promise<unknown[]> {
    const complete = async (one: Call): Promise<unknown> => {
      const options = {
        max_tokens: one.max_tokens,
        n: one.n,
        seed: one.family,
        ignore_eos: true,
        ...(hasRanks && one.rank >= 0 && { data_parallel_rank: one.rank }),
      };
      if (one.cancels === 0) return bits(await pod.complete(promptOf(one), options));
      const controller = new AbortController();
      const cancelled = pod.complete(promptOf(one), { ...options, signal: controller.signal }).catch(() => null);
      for (let turn = 1; turn < one.cancels; turn++) await new Promise((resolve) => setImmediate(resolve));
      controller.abort();
      await cancelled;
      return null;
    };
    const outcomes: unknown[] = [];
    for (let from = 0; from < calls.length; from += WAVE) {
      const wave = calls.slice(from, from + WAVE).map(complete);
      if (resets && from % (3 * WAVE) === 0) await pod.resetPrefixCache();
      outcomes.push(...(await Promise.all(wave)));
    }
    return outcomes;
  }

  it('should change no token: groups and executors of all kinds, cancelled, dropped mid-run, with room for little', async () => {
    const seen = { hits: 0, missed: 0, refused: 0 };
    const property = fc.asyncProperty(
      fc.array(call, { minLength: 8, maxLength: 64, size: 'max' }),
      fc.constantFrom<PodOptions>(...[...TOPOLOGIES, 'colocated:dp=2,tp=2'].map((topology) => ({ topology }))),
      fc.integer({ min: 22, max: 80 }),
      fc.constantFrom(0, 20),
      fc.constantFrom(16, 64, 256),
      fc.boolean(),
      fc.constantFrom(undefined, 1e9),
      fc.nat(1_000),
      async (calls, topology, kv_blocks, dram_blocks, max_batch_tokens, resets, link_bytes_per_s, seed) => {
        const expected = await withPod({ ...HASH, prefix_caching: false }, (pod) => run(pod, calls, false, false));
        const options = { ...SHARING, ...topology, kv_blocks, dram_blocks, max_batch_tokens, seed, ...(link_bytes_per_s && { link_bytes_per_s }) };
        await withPod(options, async (pod) => {
          expect(await run(pod, calls, resets, true)).toEqual(expected);
          seen.hits += await sum(pod, 'remote_hits');
          seen.missed += await sum(pod, 'remote_hits_missed');
          seen.refused += await sum(pod, 'remote_hits_refused');
        });
      },
    );
    const begun = { family: 0, prompt: 320, max_tokens: 2, cancels: 0, n: 1 };
    const surely = [0, 1].flatMap((rank) => Array.from({ length: WAVE }, () => ({ ...begun, rank })));
    await fc.assert(property, { numRuns: runs(4), examples: [[surely, { topology: 'colocated:dp=2' }, 80, 0, 256, false, undefined, 0]] });
    expect(seen.hits).toBeGreaterThan(0);
  });

  it('should change no token of the shipped model on threads', async () => {
    const calls: Call[] = Array.from({ length: 8 }, (_, index) => ({
      ...{ family: index % 2, prompt: 100 + 9 * index, max_tokens: 4, rank: index % 2 === index % 4 ? 0 : 1 },
      ...{ cancels: index === 5 ? 3 : 0, n: index === 3 ? 2 : 1 },
    }));
    const expected = await withPod({ clock: 'virtual', prefix_caching: false }, (pod) => run(pod, calls, false, false));
    await withPod({ prefix_sharing: true, topology: 'colocated:dp=2', workers: 2 }, async (pod) => {
      for (const rank of [0, 1]) expect((await timed(pod, [...prefix, 7], rank)).cached).toBe(512 * rank);
      for (const resets of [false, true, false]) expect(await run(pod, calls, resets, true)).toEqual(expected);
      expect(await sum(pod, 'remote_hits')).toBeGreaterThan(0);
      expect((await heldOf(pod)).filter((held) => held > 0)).toEqual([]);
    });
  });
});
