/** What a step takes on a virtual clock. */
import { expect, it } from 'vitest';
import { readModelConfig } from '../../src/model/config.ts';
import { resolveModel } from '../../src/model/registry.ts';
import type { StepPlan } from '../../src/protocol/steps.ts';
import { ASCEND_910C_DIE, HOST_CORE, kvBlockBytes, rooflineStep, rooflineTimes } from '../../src/simulate/roofline.ts';

it('a split output projection costs what its rows take there and back, no arithmetic', () => {
  const tiny = readModelConfig(resolveModel('tiny-deepseek-v3'));
  const [whole = 0, halves = 0] = [1, 2].map((oproj) => rooflineStep(tiny, { npus: 4, tp: 1, oproj }, ASCEND_910C_DIE)(stepOf(4, 1)));
  const { link_latency_ns, link_bytes_per_s } = ASCEND_910C_DIE;
  const bytes = 4 * 2 * (tiny.heads * (tiny.attention.kind === 'mla' ? tiny.attention.vDim : 0) + tiny.hiddenSize / 2);
  expect(halves - whole).toBeCloseTo(tiny.layers * (2 * link_latency_ns + (bytes / link_bytes_per_s) * 1e9), -1);
});

it('INT8 takes the bytes that it has: of KV cells, of rows to experts and back, of weights', () => {
  const tiny = readModelConfig(resolveModel('tiny-deepseek-v3'));
  const INT8 = { kv_cache_dtype: 'int8', dispatch_dtype: 'int8', combine_dtype: 'int8' } as const;
  expect([{}, INT8].map((numerics) => kvBlockBytes(tiny, 16, HOST_CORE, numerics))).toEqual([tiny.layers * 16 * 320, tiny.layers * 16 * 100]);
  // On links so slow that a step is nothing but what goes over them.
  const slow = { ...ASCEND_910C_DIE, flops_per_s: 1e30, memory_bytes_per_s: 1e30, link_latency_ns: 0, link_bytes_per_s: 1e3 };
  const [wide = 0, there = 0, both = 0] = [{}, { dispatch_dtype: 'int8' } as const, INT8].map((numerics) =>
    rooflineStep(tiny, { npus: 4, tp: 1 }, slow, numerics)(stepOf(4, 1)),
  );
  const narrow = (tiny.hiddenSize + 4) / (2 * tiny.hiddenSize);
  expect([there / wide, both / wide]).toEqual([expect.closeTo((1 + narrow) / 2, 6), expect.closeTo(narrow, 6)]);
  const reading = { ...ASCEND_910C_DIE, flops_per_s: 1e30, memory_bytes_per_s: 1e3 };
  const quantized = { ...tiny, quantization: { scheme: 'w8a8-int8' as const, ignore: [] } };
  const [bf16 = 0, int8 = 0] = [tiny, quantized].map((config) => rooflineStep(config, { npus: 1, tp: 1 }, reading)(stepOf(4, 1)));
  expect(int8 / bf16).toBeGreaterThan(0.5);
  expect(int8 / bf16).toBeLessThan(0.9);
});

const stepOf = (sequences: number, tokens: number): StepPlan => ({
  step: 1,
  after: 0,
  entries: Array.from({ length: sequences }, (_, slot) => ({
    ...{ slot, start: 1_000, tokens: Array.from({ length: tokens }, () => 1), first_block: 0, blocks: [], shared: 0 },
    ...{ generated: 0, samples: true, drafts: 0, foresees: -1, attach: null, output: [] },
  })),
  detach: [],
});

it('more ranks take less for a long prefill, and never less than their share; a decode step of a small model only pays for its gathers', () => {
  const tiny = readModelConfig(resolveModel('tiny-deepseek-v3'));
  // Widths of a large model, for which a prefill is arithmetic.
  const large = { ...tiny, hiddenSize: 4_096, heads: 64, mlp: { intermediateSize: 16_384 }, moe: { ...tiny.moe, intermediateSize: 2_048 } };
  const timesOf = (config: typeof tiny, step: StepPlan): number[] => [1, 2, 4, 8].map((tp) => rooflineStep(config, { npus: 8, tp }, ASCEND_910C_DIE)(step));
  const prefill = timesOf(large, stepOf(1, 2_048));
  for (const [index, time] of prefill.slice(1).entries()) {
    expect(time).toBeLessThan(prefill[index] as number);
    expect(time).toBeGreaterThan((prefill[0] as number) / 2 ** (index + 1));
  }
  const decode = timesOf(tiny, stepOf(4, 1));
  const gathers = tiny.layers * 2 + 1;
  expect(decode[1]).toBeGreaterThan((decode[0] as number) + gathers * ASCEND_910C_DIE.link_latency_ns * 0.9);
});

it('a second MTP layer takes what the first does once more for all rows, before any draft', () => {
  const tiny = readModelConfig(resolveModel('tiny-deepseek-v3'));
  const drafts_ns = (draftLayers: number, foresees: number): number => {
    const { entries, ...plan } = stepOf(4, 3);
    return rooflineTimes({ ...tiny, draftLayers }, { npus: 1, tp: 1 }, ASCEND_910C_DIE)({ ...plan, entries: entries.map((entry) => ({ ...entry, foresees })) })
      .drafts_ns;
  };
  // Rounded to nanoseconds each.
  const near = (a: number, b: number): void => expect(Math.abs(a - b)).toBeLessThanOrEqual(2);
  near(drafts_ns(2, 0), 2 * drafts_ns(1, 0));
  for (const foresees of [1, 2, 3]) near(drafts_ns(2, foresees) - drafts_ns(1, foresees), drafts_ns(1, 0));
});
