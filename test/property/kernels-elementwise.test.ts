import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import * as float64 from '../../src/model/kernels/float64.ts';
import { ropeFrequencies, ropeTable, yarnMscale } from '../../src/model/kernels/rope-table.ts';
import * as reference from '../golden/reference.ts';
import { createArena, expectSameBits, noise, RUNS, toBf16 } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

function apply(kernel: (y: number, x: number, n: number) => void, x: Float32Array): Float32Array {
  const y = arena.room(x.byteLength);
  kernel(y, arena.floats(x), x.length);
  return arena.readFloats(y, x.length);
}

/** Distance in units of the last place of the exact value. */
function ulps(actual: number, exact: number): number {
  const spacing = 2 ** (Math.floor(Math.log2(Math.abs(exact))) - 23);
  return Math.abs(actual - exact) / spacing;
}

describe('exp and log', () => {
  const special = [0, -0, 1, -1, Infinity, -Infinity, NaN, 88.72, 88.73, -87.33, -87.34, -87.5, -87.7, 88.37, 88.4, 1e-38, 1e-40, -1e30, 3.4e38];

  it('should equal the scalar reference bit for bit', () => {
    const x = Float32Array.from([...special, ...noise(1)(20000).map((v) => v * 30)]);
    expectSameBits(apply(kernels.expRow, x), x.map(reference.exp));
    const positive = Float32Array.from([...special, ...noise(2)(20000).map((v) => Math.abs(v) ** 9)]);
    expectSameBits(apply(kernels.logRow, positive), positive.map(reference.log));
  });

  it('should be within 2 ulp over the useful range, and clean at its ends', () => {
    const x = Float32Array.from({ length: 200000 }, (_, i) => -87.3 + (175.6 * i) / 200000);
    const worstExp = apply(kernels.expRow, x).reduce((worst, y, i) => Math.max(worst, ulps(y, Math.exp(x[i] ?? 0))), 0);
    expect(worstExp).toBeLessThanOrEqual(2);
    const p = Float32Array.from({ length: 200000 }, (_, i) => 2 ** (-126 + (253.9 * i) / 200000));
    const near = Float32Array.from({ length: 20000 }, (_, i) => 0.9 + i * 1e-5).filter((v) => Math.fround(v) !== 1);
    for (const values of [p, near]) {
      const worst = apply(kernels.logRow, values).reduce((w, y, i) => Math.max(w, ulps(y, Math.log(values[i] ?? 1))), 0);
      expect(worst).toBeLessThanOrEqual(2);
    }
    expect([...apply(kernels.expRow, Float32Array.of(-Infinity, -1000, 0, 1000, NaN))]).toEqual([0, 0, 1, Infinity, NaN]);
    expect([...apply(kernels.logRow, Float32Array.of(0, 1, Infinity, -1))]).toEqual([-Infinity, 0, Infinity, NaN]);
  });
});

describe('float64 functions for tables', () => {
  it('should be within 4e-16 of the engine', () => {
    for (const v of noise(5)(5000)) {
      expect(Math.abs(float64.exp(v * 20) / Math.exp(v * 20) - 1)).toBeLessThan(4e-16);
      const p = Math.exp(v * 20);
      expect(Math.abs(float64.log(p) - Math.log(p))).toBeLessThanOrEqual(4e-16 * Math.max(Math.abs(Math.log(p)), 1));
      const { sin, cos } = float64.sinCos(v * 50000);
      expect(Math.abs(sin - Math.sin(v * 50000))).toBeLessThan(4e-16);
      expect(Math.abs(cos - Math.cos(v * 50000))).toBeLessThan(4e-16);
    }
  });
});

describe('rows', () => {
  it('should normalise as the reference, whole rows and heads in place', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 4 }), fc.nat(), (dim, rows, seed) => {
        arena.reset();
        const make = noise(seed);
        const [x, weight] = [make(rows * dim), make(dim)];
        const want = Array.from({ length: rows }, (_, r) => [...reference.rmsNorm(x.slice(r * dim, (r + 1) * dim), weight, 1e-6)]).flat();
        const y = arena.room(rows * dim * 4);
        kernels.rmsNorm(y, dim, arena.floats(x), dim, rows, dim, arena.floats(weight), 1e-6);
        expectSameBits(arena.readFloats(y, rows * dim), want);
        const heads = arena.floats(x);
        kernels.rmsNormHeads(heads, rows * dim, dim, rows, 1, dim, arena.floats(weight), 1e-6);
        expectSameBits(arena.readFloats(heads, rows * dim), want);
      }),
      { numRuns: RUNS },
    );
  });

  it('should rotate adjacent pairs and halves as the reference', () => {
    const [heads, rows, dim, rowStride, headStride] = [3, 4, 16, 100, 30];
    const x = noise(6)(rows * rowStride);
    const positions = [0, 5, 999, 17];
    const table = ropeTable(1000, dim, 10000, null);
    for (const [kernel, rotate] of [
      [kernels.ropeInterleaved, reference.ropeInterleaved],
      [kernels.ropeHalves, reference.ropeHalves],
    ] as const) {
      const at = arena.floats(x);
      kernel(at, rowStride, headStride, heads, rows, dim, arena.words(positions), arena.floats(table));
      const want = x.slice();
      positions.forEach((p, r) => {
        for (let h = 0; h < heads; h++) {
          const from = r * rowStride + h * headStride;
          want.set(rotate(x.slice(from, from + dim), table.subarray(p * dim, (p + 1) * dim)), from);
        }
      });
      expectSameBits(arena.readFloats(at, x.length), want);
    }
  });

  it('should stretch low frequencies under YaRN and keep high ones', () => {
    const yarn = { factor: 8, betaFast: 1, betaSlow: 1, mscale: 1, mscaleAllDim: 1, originalMaxPosition: 256 };
    const plain = ropeFrequencies(16, 50000, null);
    const stretched = ropeFrequencies(16, 50000, yarn);
    expect(stretched[0]).toBe(plain[0]);
    expect(stretched[7]).toBe((plain[7] ?? 0) / 8);
    expect(yarnMscale(8, 1)).toBeCloseTo(0.1 * Math.log(8) + 1, 14);
    const table = ropeTable(3, 16, 50000, yarn);
    expect(table[2 * 16]).toBe(Math.fround(Math.cos(2)));
    expect(table[2 * 16 + 1]).toBe(Math.fround(Math.sin(2)));
  });

  it('should activate, add and embed as the reference', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 4 }), fc.nat(), (inter, rows, seed) => {
        arena.reset();
        const make = noise(seed);
        const gateUp = make(rows * 2 * inter).map((v) => v * 20);
        const y = arena.room(rows * inter * 4);
        kernels.siluMul(y, inter, arena.floats(gateUp), 2 * inter, rows, inter);
        const want = Array.from({ length: rows }, (_, r) => [...reference.siluMul(gateUp.slice(r * 2 * inter, (r + 1) * 2 * inter))]).flat();
        expectSameBits(arena.readFloats(y, rows * inter), want);
        const [a, b] = [make(inter), make(inter)];
        const sum = arena.floats(a);
        kernels.addInPlace(sum, arena.floats(b), inter);
        expectSameBits(
          arena.readFloats(sum, inter),
          a.map((v, i) => v + (b[i] ?? NaN)),
        );
        const table = toBf16(make(3 * inter));
        const rowsOut = arena.room(2 * inter * 4);
        kernels.embedBf16(rowsOut, inter, arena.halves(table.raw), arena.words([2, 0]), 2, inter);
        const embedded = [...table.widened.slice(2 * inter), ...table.widened.slice(0, inter)];
        expectSameBits(arena.readFloats(rowsOut, 2 * inter), embedded);
        kernels.embedF32(rowsOut, inter, arena.floats(table.widened), arena.words([2, 0]), 2, inter);
        expectSameBits(arena.readFloats(rowsOut, 2 * inter), embedded);
      }),
      { numRuns: RUNS },
    );
  });
});
