import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { gateScratchBytes } from '../../src/model/kernels/kernels.ts';
import { combine } from '../golden/reference.ts';
import { type Chosen, gateSigmoid, gateSoftmax, type SigmoidGate } from '../golden/reference-gating.ts';
import { runs } from '../property-runs.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

function read(experts: number, weights: number, row: number, topK: number): Chosen {
  return { experts: [...arena.readWords(experts + row * topK * 4, topK)], weights: [...arena.readFloats(weights + row * topK * 4, topK)] };
}

function sigmoidGate(logits: Float32Array, rows: number, bias: Float32Array, gate: SigmoidGate): Chosen[] {
  const experts = arena.room(rows * gate.topK * 4);
  const weights = arena.room(rows * gate.topK * 4);
  const scratch = arena.room(gateScratchBytes(bias.length));
  const { nGroup, topkGroup, topK, normalise, scalingFactor } = gate;
  const [from, b] = [arena.floats(logits), arena.floats(bias)];
  kernels.gateSigmoid(experts, weights, from, rows, bias.length, b, nGroup, topkGroup, topK, normalise ? 1 : 0, scalingFactor, scratch);
  return Array.from({ length: rows }, (_, r) => read(experts, weights, r, topK));
}

function softmaxGate(logits: Float32Array, rows: number, topK: number, normalise: boolean): Chosen[] {
  const nExperts = logits.length / rows;
  const experts = arena.room(rows * topK * 4);
  const weights = arena.room(rows * topK * 4);
  kernels.gateSoftmax(experts, weights, arena.floats(logits), rows, nExperts, topK, normalise ? 1 : 0, arena.room(gateScratchBytes(nExperts)));
  return Array.from({ length: rows }, (_, r) => read(experts, weights, r, topK));
}

describe('gating', () => {
  it('should choose and weigh as the reference, sigmoid with groups and bias, ties to the lowest id', () => {
    fc.assert(
      fc.property(
        fc.constantFrom([1, 1], [4, 2], [8, 4], [4, 4], [2, 1]),
        fc.integer({ min: 4, max: 9 }),
        fc.integer({ min: 1, max: 4 }),
        fc.boolean(),
        fc.boolean(),
        fc.nat(),
        ([nGroup = 1, topkGroup = 1], size, topK, normalise, coarse, seed) => {
          arena.reset();
          const make = noise(seed);
          const n = nGroup * size;
          const round = (v: number) => (coarse ? Math.round(v) : v); // coarse values tie
          const [logits, bias] = [make(3 * n).map(round), make(n).map((v) => round(v) / 4)];
          const gate = { nGroup, topkGroup, topK, normalise, scalingFactor: 2.5 };
          sigmoidGate(logits, 3, bias, gate).forEach((got, r) => {
            expect(got).toEqual(gateSigmoid(logits.slice(r * n, (r + 1) * n), bias, gate));
          });
        },
      ),
      { numRuns: runs(3) * RUNS },
    );
  });

  it('should choose and weigh as the reference, softmax over all', () => {
    fc.assert(
      fc.property(fc.integer({ min: 8, max: 70 }), fc.integer({ min: 1, max: 8 }), fc.boolean(), fc.boolean(), fc.nat(), (n, topK, normalise, coarse, seed) => {
        arena.reset();
        const logits = noise(seed)(3 * n).map((v) => (coarse ? Math.round(v) : v * 4));
        softmaxGate(logits, 3, topK, normalise).forEach((got, r) => {
          expect(got).toEqual(gateSoftmax(logits.slice(r * n, (r + 1) * n), topK, normalise));
        });
      }),
      { numRuns: runs(3) * RUNS },
    );
  });

  it('should write distinct valid experts even for NaN logits, so that nothing is addressed out of range', () => {
    const bad = new Float32Array(32).fill(NaN);
    const gate = { nGroup: 4, topkGroup: 2, topK: 4, normalise: true, scalingFactor: 1 };
    for (const [{ experts } = { experts: [] }] of [sigmoidGate(bad, 1, new Float32Array(32), gate), softmaxGate(bad, 1, 4, true)]) {
      expect(new Set(experts).size).toBe(4);
      expect(experts.every((e) => e < 32)).toBe(true);
    }
  });
});

describe('around the experts', () => {
  it('should gather rows, count loads, and combine in slot order with the shared row last', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 21 }),
        fc.integer({ min: 1, max: 4 }),
        fc.boolean(),
        fc.nat(),
        (rows, dim, topK, withShared, seed) => {
          arena.reset();
          const make = noise(seed);
          const [hidden, returned, weights, shared] = [make(rows * dim), make(rows * topK * dim), make(rows * topK), make(rows * dim)];
          const indices = Array.from({ length: rows * topK }, (_, i) => rows * topK - 1 - i);
          const x = arena.floats(hidden);
          const sharedBase = withShared ? arena.floats(shared) : 0;
          kernels.combineRows(x, dim, arena.floats(returned), arena.words(indices), arena.floats(weights), topK, sharedBase, dim, rows, dim);
          const part = (values: Float32Array, i: number) => values.slice(i * dim, (i + 1) * dim);
          const want = Array.from({ length: rows }, (_, r) => {
            const mine = indices.slice(r * topK, (r + 1) * topK).map((i) => part(returned, i));
            return [...combine(part(hidden, r), mine, weights.slice(r * topK, (r + 1) * topK), withShared ? part(shared, r) : null)];
          });
          expectSameBits(arena.readFloats(x, rows * dim), want.flat());

          const gathered = arena.room(rows * topK * dim * 4);
          kernels.gatherRows(gathered, arena.floats(returned), arena.words(indices), indices.length, dim * 4);
          expectSameBits(
            arena.readFloats(gathered, rows * topK * dim),
            indices.flatMap((i) => [...part(returned, i)]),
          );
        },
      ),
      { numRuns: RUNS },
    );
    const counts = arena.words([5, 0, 0, 1]);
    kernels.countExperts(counts, arena.words([0, 2, 2, 3, 2]), 5);
    expect([...arena.readWords(counts, 4)]).toEqual([6, 0, 3, 2]);
  });

  it('should combine rows that lie anywhere to the bits of rows that lie in one array', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 5 }),
        fc.integer({ min: 1, max: 37 }),
        fc.integer({ min: 0, max: 4 }),
        fc.boolean(),
        fc.integer({ min: 0, max: 3 }),
        fc.nat(),
        (rows, dim, topK, withShared, gap, seed) => {
          arena.reset();
          const make = noise(seed);
          const stride = dim + gap;
          const [hidden, returned, shared] = [make(rows * stride), make(rows * topK * dim), withShared ? arena.floats(make(rows * stride)) : 0];
          const weights = arena.floats(make(rows * topK));
          const indices = Array.from({ length: rows * topK }, (_, i) => (i * 7 + seed) % (rows * topK));
          const expected = arena.floats(hidden);
          kernels.combineRows(expected, stride, arena.floats(returned), arena.words(indices), weights, topK, shared, stride, rows, dim);

          const places = indices.map((i) => arena.floats(returned.slice(i * dim, (i + 1) * dim)));
          const x = arena.floats(hidden);
          kernels.combineRowsAt(x, stride, arena.words(places), weights, topK, shared, stride, rows, dim);
          expectSameBits(arena.readFloats(x, rows * stride), arena.readFloats(expected, rows * stride));
        },
      ),
      { numRuns: runs(2) * RUNS },
    );
  });

  it('should copy and fill bytes', () => {
    const to = arena.room(7);
    kernels.fillBytes(to, 0x1ab, 7);
    kernels.copyBytes(to + 2, arena.words([0x04030201]), 3);
    expect([...new Uint8Array(arena.memory.buffer, to, 7)]).toEqual([0xab, 0xab, 1, 2, 3, 0xab, 0xab]);
  });

  it('should copy bytes as if at once where source and destination overlap, whichever is first, and however many they are', () => {
    const total = 9 * 2 ** 20 + 5;
    const place = arena.room(total);
    const bytes = new Uint8Array(arena.memory.buffer, place, total);
    const pattern = new Uint8Array(Uint32Array.from({ length: total >>> 2 }, (_, i) => Math.imul(i, 0x9e3779b1)).buffer);
    for (const shift of [1, 4099, 4 * 2 ** 20 + 1]) {
      const count = total - shift;
      for (const [to, from] of [
        [0, shift],
        [shift, 0],
      ] as const) {
        bytes.set(pattern);
        const want = bytes.slice().copyWithin(to, from, from + count);
        kernels.copyBytes(place + to, place + from, count);
        expect(Buffer.compare(bytes.slice(), want)).toBe(0);
      }
    }
    kernels.fillBytes(place, 7, total);
    expect(bytes.every((byte) => byte === 7)).toBe(true);
  });
});
