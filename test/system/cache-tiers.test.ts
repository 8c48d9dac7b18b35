/** KV so small that sequences give way and blocks move between HBM and DRAM all the time: no token tells. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { StepLayout } from '../../src/flowserve/layouts/step-layout.ts';
import type { Completion, Pod, PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { runs } from '../property-runs.ts';
import { withPod } from './pods.ts';

const HASH = { clock: 'virtual', kernels: 'hash' } as const;
const bits = ({ choices }: Completion): unknown => choices.map(({ token_ids, logprobs }) => ({ token_ids, logprobs }));

type Call = { readonly family: number; readonly prompt: number; readonly max_tokens: number; readonly n: number };
const call: fc.Arbitrary<Call> = fc.record({
  family: fc.nat(2),
  prompt: fc.integer({ min: 1, max: 90 }),
  max_tokens: fc.integer({ min: 1, max: 40 }),
  n: fc.constantFrom(1, 1, 1, 3),
});
/** Prompts of a family begin alike. */
const promptOf = ({ family, prompt }: Call): number[] => Array.from({ length: prompt }, (_, at) => 3 + ((family * 397 + at * 31) % 500));

async function run(pod: Pod, calls: readonly Call[], resets: boolean): Promise<unknown[]> {
  const half = Math.ceil(calls.length / 2);
  const complete = (one: Call): Promise<Completion> =>
    pod.complete(promptOf(one), { max_tokens: one.max_tokens, n: one.n, seed: one.family, ignore_eos: true });
  const first = calls.slice(0, half).map(complete);
  if (resets) await pod.resetPrefixCache();
  return (await Promise.all([...first, ...calls.slice(half).map(complete)])).map(bits);
}

describe('the tiers of a pod’s cache', () => {
  it('should change no token: cold, hot, dropped mid-run, with preemption and swap all the time', async () => {
    const seen = { out: 0, in: 0, preemptions: 0 };
    const property = fc.asyncProperty(
      fc.array(call, { minLength: 2, maxLength: 12, size: 'max' }),
      fc.integer({ min: 9, max: 16 }),
      fc.constantFrom(4, 20, 200),
      fc.constantFrom(7, 64, 256),
      fc.boolean(),
      fc.nat(1_000),
      async (calls, kv_blocks, dram_blocks, max_batch_tokens, resets, seed) => {
        const expected = await withPod({ ...HASH, prefix_caching: false }, (pod) => run(pod, calls, false));
        await withPod({ ...HASH, kv_blocks, dram_blocks, max_batch_tokens, seed }, async (pod) => {
          expect(await run(pod, calls, resets)).toEqual(expected);
          expect(await run(pod, calls, false)).toEqual(expected);
          const [npu] = (await pod.stats()).npus;
          expect(npu?.kv_blocks_used).toBe(0);
          seen.out += npu?.blocks_swapped_out ?? 0;
          seen.in += npu?.blocks_swapped_in ?? 0;
          seen.preemptions += npu?.preemptions ?? 0;
        });
      },
    );
    // A seed that is known to swap both ways, then others.
    await fc.assert(property, { numRuns: 4, seed: 4 });
    await fc.assert(property, { numRuns: runs(6) });
    expect(seen.out).toBeGreaterThan(0);
    expect(seen.in).toBeGreaterThan(0);
    expect(seen.preemptions).toBeGreaterThan(0);
  });

  it('should change no token of the shipped model on threads either', async () => {
    const calls: Call[] = Array.from({ length: 6 }, (_, index) => ({
      family: index % 2,
      prompt: 40 + 9 * index,
      max_tokens: 8 + index,
      n: index === 3 ? 3 : 1,
    }));
    const expected = await withPod({ clock: 'virtual', prefix_caching: false }, (pod) => run(pod, calls, false));
    await withPod({ kv_blocks: 9, dram_blocks: 20 }, async (pod) => {
      for (const resets of [false, true, false]) expect(await run(pod, calls, resets)).toEqual(expected);
      const [npu] = (await pod.stats()).npus;
      expect([npu?.kv_blocks_used, (npu?.blocks_swapped_out ?? 0) > 0, (npu?.blocks_swapped_in ?? 0) > 0]).toEqual([0, true, true]);
    });
  });

  const prompts = Array.from({ length: 6 }, (_, index) => Array.from({ length: 64 }, (_token, at) => 3 + ((index * 97 + at * 7) % 500)));
  const around = async (options: PodOptions): Promise<{ readonly cached: number; readonly swapped_in: number; readonly refused: number }> =>
    withPod({ ...HASH, kv_blocks: 8, dram_blocks: 64, ...options }, async (pod) => {
      let cached = 0;
      for (let round = 0; round < 3; round++)
        for (const prompt of prompts) cached += (await pod.complete([...prompt, 3 + round], { max_tokens: 2, ignore_eos: true })).usage.cached_tokens;
      const [npu] = (await pod.stats()).npus;
      return { cached, swapped_in: npu?.blocks_swapped_in ?? 0, refused: npu?.hits_refused ?? 0 };
    });

  it('should find in DRAM what HBM had no room for, and refuse it where the link is slower than the NPU', async () => {
    const fast = await around({});
    // All but a block now and then that is on its way the other way when it is looked for.
    expect(fast.cached).toBeGreaterThan(0.9 * 2 * 6 * 64);
    expect(fast.swapped_in).toBeGreaterThan(2 * 6 * 2);
    const slow = await around({ dram_bytes_per_s: 1e3 });
    expect([slow.swapped_in, slow.refused > 0]).toEqual([0, true]);
    expect((await around({ dram_blocks: 0 })).cached).toBe(0);
  });

  it('should map blocks of DRAM out that went bad, give them to nobody any more, and change no token', () =>
    withPod({ ...HASH, kv_blocks: 8, dram_blocks: 64 }, async (pod) => {
      const { plan, space } = (pod as VirtualPod).control;
      const { base, bytes } = plan.drams[0] as { base: number; bytes: number };
      const memory = space.bytesAt(base, bytes);
      const { block_bytes } = (plan.layouts[0] as StepLayout).kv;
      const ask = async (of: Pod): Promise<unknown[]> => {
        const answers = [];
        for (const prompt of prompts) answers.push(bits(await of.complete([...prompt, 3], { max_tokens: 2, seed: 1, ignore_eos: true })));
        return answers;
      };
      const right = await withPod({ ...HASH, prefix_caching: false }, ask);
      expect(await ask(pod)).toEqual(right);
      const npu = async () => (await pod.stats()).npus[0];
      /** Of the first 12 blocks each third one has a bit that does not hold. */
      const stick = (): void => {
        for (let at = 0; at < 12 * block_bytes; at += 3 * block_bytes) memory[at] = (memory[at] as number) ^ 1;
      };
      for (let round = 0; round < 20 && (await npu())?.dram_blocks_mapped_out !== 4; round++) {
        stick();
        expect(await ask(pod)).toEqual(right);
      }
      const before = await npu();
      expect([before?.dram_blocks_mapped_out, before?.kv_blocks_mapped_out]).toEqual([4, 0]);
      stick();
      expect(await ask(pod)).toEqual(right);
      const after = await npu();
      expect(after?.dram_blocks_mapped_out).toBe(4);
      expect(after?.dram_blocks_used).toBeLessThanOrEqual(60);
      expect(after?.blocks_swapped_in).toBeGreaterThan(before?.blocks_swapped_in ?? 0);
    }));

  it('should keep nobody waiting for a slow link who needs nothing that comes over it', async () => {
    const prompts = ['The king said to the old fox '.repeat(30), ...Array.from({ length: 6 }, (_, index) => `Number ${index} wolf and goat `.repeat(50))];
    await withPod({ ...HASH, kv_blocks: 40, dram_blocks: 60, dram_bytes_per_s: 1e3 }, async (pod) => {
      for (const prompt of [...prompts, ...prompts]) {
        const generation = pod.generate(prompt, { max_tokens: 4, ignore_eos: true });
        for await (const _chunk of generation);
        const { received, first_token } = generation.times();
        expect((first_token ?? Number.NaN) - received).toBeLessThan(1);
      }
      const [npu] = (await pod.stats()).npus;
      expect([npu?.kv_blocks_used, npu?.blocks_swapped_in, npu?.preemptions]).toEqual([0, 0, 0]);
    });
  });
});
