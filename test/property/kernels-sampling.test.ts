import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { sampleScratchBytes } from '../../src/model/kernels/kernels.ts';
import { SAMPLING_WORDS, writeSamplingParams } from '../../src/model/kernels/sampling-params.ts';
import { f, laneSum, log, exp as referenceExp } from '../golden/reference.ts';
import { ranked } from '../golden/reference-gating.ts';
import { type Draw, gumbel, keptTokens, philox, sample } from '../golden/reference-sampling.ts';
import { runs } from '../property-runs.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

const PLAIN: Draw = {
  seedLow: 1,
  seedHigh: 2,
  choice: 0,
  position: 0,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  bias: [],
  output: [],
  banned: [],
};

/** The kernel's draw; also holds that the logits were left alone. */
function draw(logits: Float32Array, d: Draw): number {
  const from = arena.floats(logits);
  const params = arena.room(SAMPLING_WORDS * 4);
  const bias = arena.words(d.bias.flatMap(([id, v]) => [id, new Uint32Array(Float32Array.of(v).buffer)[0] ?? 0]));
  const lists = { biasAddress: bias, outputAddress: arena.words(d.output.flat()), banAddress: arena.words(d.banned) };
  const counts = { biasCount: d.bias.length, outputCount: d.output.length, banCount: d.banned.length };
  writeSamplingParams(arena.memory, params, { ...d, ...counts, ...lists });
  const token = kernels.sampleRow(from, logits.length, params, arena.room(sampleScratchBytes(logits.length)));
  expectSameBits(arena.readFloats(from, logits.length), logits);
  return token;
}

describe('Philox4x32-10', () => {
  it('should give the published vectors (Random123, kat_vectors)', () => {
    const vectors = [
      { counter: [0, 0, 0, 0], key: [0, 0], want: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
      { counter: [-1, -1, -1, -1], key: [-1, -1], want: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
      { counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], key: [0xa4093822, 0x299f31d0], want: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1] },
    ] as const;
    for (const { counter, key, want } of vectors) {
      const to = arena.room(16);
      const [[c0, c1, c2, c3], [k0, k1]] = [counter, key];
      kernels.philoxWords(to, c0, c1, c2, c3, k0, k1);
      expect([...arena.readWords(to, 4)]).toEqual(want);
      expect(philox(counter, key)).toEqual(want);
    }
  });
});

describe('questions about a row', () => {
  it('should answer argmax, finiteness, log-sum-exp and the best k as the reference', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 40 }), fc.boolean(), fc.nat(), (n, k, coarse, seed) => {
        arena.reset();
        const logits = noise(seed)(n).map((v) => (coarse ? Math.round(v * 2) : v * 5));
        const at = arena.floats(logits);
        const order = ranked(logits);
        expect(kernels.argmaxRow(at, n)).toBe(order[0]);
        const top = Math.max(...logits);
        const total = laneSum(n, (i) => referenceExp(f((logits[i] ?? NaN) - top)));
        expect(kernels.logSumExp(at, n)).toBe(f(top + log(total)));
        const best = Math.min(k, n);
        const [ids, values] = [arena.room(best * 4), arena.room(best * 4)];
        kernels.topLogits(ids, values, at, n, k);
        expect([...arena.readWords(ids, best)]).toEqual(order.slice(0, best));
        expect([...arena.readFloats(values, best)]).toEqual(order.slice(0, best).map((id) => logits[id]));
        expect(kernels.allFinite(at, n)).toBe(1);
        for (const bad of [NaN, Infinity, -Infinity]) expect(kernels.allFinite(arena.floats(logits.with(seed % n, bad)), n)).toBe(0);
      }),
      { numRuns: runs(2) * RUNS },
    );
  });
});

describe('sampleRow', () => {
  const n = 203;
  const id = fc.integer({ min: 0, max: n - 1 });
  const unique = { selector: ([token]: [number, number]) => token, maxLength: 6 };
  const anyDraw: fc.Arbitrary<Draw> = fc.record({
    seedLow: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    seedHigh: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    choice: fc.integer({ min: 0, max: 3 }),
    position: fc.integer({ min: 0, max: 5000 }),
    temperature: fc.constantFrom(0, 0.3, 1, 1.7),
    topK: fc.constantFrom(0, 0, 1, 5, 100, 1000),
    topP: fc.constantFrom(1, 1, 0, 0.1, 0.9, 0.9999),
    minP: fc.constantFrom(0, 0, 0.05, 0.5, 1),
    repetitionPenalty: fc.constantFrom(1, 1.3),
    frequencyPenalty: fc.constantFrom(0, 0.4),
    presencePenalty: fc.constantFrom(0, -0.7),
    bias: fc.uniqueArray(fc.tuple(id, fc.constantFrom(-100, 2.5, 100)), unique),
    output: fc.uniqueArray(fc.tuple(id, fc.integer({ min: 1, max: 5 })), unique),
    banned: fc.uniqueArray(id, { maxLength: 4 }),
  });

  it('should draw what a plain reference draws, for any parameters', () => {
    fc.assert(
      fc.property(anyDraw, fc.boolean(), fc.nat(), (d, coarse, seed) => {
        arena.reset();
        const logits = noise(seed)(n).map((v) => (coarse ? Math.round(v) : v * 2));
        expect(draw(logits, d)).toBe(sample(logits, d));
      }),
      { numRuns: runs(10) * RUNS },
    );
  });

  it('should find the nucleus beyond the first selections of 64 and 512', () => {
    const logits = noise(12)(5000).map((v) => v * 0.01); // nearly flat: most tokens are in the nucleus
    for (const topP of [0.005, 0.05, 0.5, 0.95]) {
      const d = { ...PLAIN, topP };
      expect(draw(logits, d)).toBe(sample(logits, d));
    }
  });

  it('should only draw tokens that top_k, top_p and min_p keep, and in time all of them', () => {
    const logits = noise(13)(40).map((v) => v * 1.5);
    for (const limits of [{ topK: 5 }, { topP: 0.6 }, { minP: 0.3 }, { topK: 12, topP: 0.8, minP: 0.1 }]) {
      const d = { ...PLAIN, ...limits };
      const drawn = new Set<number>();
      for (let position = 0; position < 3000; position++) {
        arena.reset();
        drawn.add(draw(logits, { ...d, position }));
      }
      const byId = (a: number, b: number) => a - b;
      expect([...drawn].sort(byId)).toEqual(keptTokens(logits, d).sort(byId));
    }
  });

  it('should draw with the frequencies of the softmax', () => {
    const logits = Float32Array.of(1.2, -0.5, 0, 2, 0.7, -2, 1.9, 0.1, 0.3, -1);
    for (const temperature of [1, 0.6]) {
      const draws = 20000;
      const seen = new Float64Array(logits.length);
      for (let position = 0; position < draws; position++) {
        arena.reset();
        const token = draw(logits, { ...PLAIN, position, temperature });
        seen[token] = (seen[token] ?? 0) + 1;
      }
      const weights = Array.from(logits, (x) => Math.exp(x / temperature));
      const total = weights.reduce((a, b) => a + b);
      const chiSquare = weights.reduce((sum, w, i) => sum + ((seen[i] ?? 0) - (draws * w) / total) ** 2 / ((draws * w) / total), 0);
      expect(chiSquare).toBeLessThan(27.9); // 9 degrees of freedom, p = 0.001; the seed is fixed
    }
  });

  it('should draw noise that is finite and differs by seed, choice, position and token', () => {
    const seen = new Set<number>();
    for (const change of [{}, { seedLow: 9 }, { seedHigh: 9 }, { choice: 9 }, { position: 9 }]) {
      for (let token = 0; token < 50; token++) seen.add(gumbel(token, { ...PLAIN, ...change }));
    }
    expect(seen.size).toBe(250);
    expect([...seen].every(Number.isFinite)).toBe(true);
  });
});
