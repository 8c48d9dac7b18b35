import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { INT8_INPUTS_MAX, PANEL, packedBytes, panelBytes } from '../../src/model/kernels/kernels.ts';
import { at } from '../golden/reference.ts';
import { matvecInt8, quantize, scaleOf } from '../golden/reference-int8.ts';
import { runs } from '../property-runs.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

/** Packs w [outDim, inDim] with its scales. */
function pack(w: Int8Array, scales: Float32Array, outDim: number, inDim: number): number {
  const raw = arena.room(w.length + 1) + 1; // at no alignment
  new Int8Array(arena.memory.buffer).set(w, raw);
  const packed = arena.room(packedBytes(outDim, inDim, 'int8'));
  kernels.packInt8(packed, raw, outDim, inDim, inDim);
  new Float32Array(arena.memory.buffer).set(scales, (packed + panelBytes(outDim, inDim, 'int8')) / 4);
  return packed;
}

/** Quantises rows of x, and multiplies them; y [rows, outDim]. */
function run(x: Float32Array, packed: number, rows: number, inDim: number, outDim: number): Float32Array {
  const [q, scales, y] = [arena.room(rows * inDim * 2), arena.room(rows * 4), arena.room(rows * outDim * 4)];
  kernels.quantizeRows(q, scales, arena.floats(x), inDim, rows, inDim);
  kernels.matmulInt8(y, outDim, q, scales, rows, packed, inDim, outDim);
  return arena.readFloats(y, rows * outDim);
}

const weights = (seed: number, count: number): Int8Array => Int8Array.from(noise(seed)(count), (value) => Math.max(-128, Math.min(127, value * 64)));

const shape = fc.record({
  rows: fc.integer({ min: 1, max: 13 }),
  pairs: fc.integer({ min: 1, max: 40 }),
  outDim: fc.integer({ min: 1, max: 100 }),
  seed: fc.nat(),
});

describe('INT8 products', () => {
  it('should equal the scalar reference bit for bit, for any shape', () => {
    fc.assert(
      fc.property(shape, ({ rows, pairs, outDim, seed }) => {
        arena.reset();
        const inDim = 2 * pairs;
        const make = noise(seed);
        const [x, w, scales] = [make(rows * inDim), weights(seed, outDim * inDim), make(outDim)];
        const y = run(x, pack(w, scales, outDim, inDim), rows, inDim, outDim);
        for (let r = 0; r < rows; r++)
          expectSameBits(y.slice(r * outDim, (r + 1) * outDim), matvecInt8(x.slice(r * inDim, (r + 1) * inDim), w, scales, outDim));
      }),
      { numRuns: runs(2) * RUNS },
    );
  });

  it('should quantise rows as the wire does, whatever their stride, and heed y’s', () => {
    fc.assert(
      fc.property(shape, fc.integer({ min: 0, max: 5 }), ({ rows, pairs, outDim, seed }, gap) => {
        arena.reset();
        const inDim = 2 * pairs;
        const stride = inDim + gap;
        const x = noise(seed)(rows * stride);
        const [q, scales] = [arena.room(rows * inDim * 2), arena.room(rows * 4)];
        kernels.quantizeRows(q, scales, arena.floats(x), stride, rows, inDim);
        for (let r = 0; r < rows; r++) {
          const expected = quantize(x.slice(r * stride, r * stride + inDim));
          expect([...new Int16Array(arena.memory.buffer, q + r * inDim * 2, inDim)]).toEqual([...expected.q]);
          expect(at(arena.readFloats(scales, rows), r)).toBe(expected.scale);
        }
        const y = arena.floats(new Float32Array(rows * (outDim + gap)).fill(77));
        kernels.matmulInt8(y, outDim + gap, q, scales, rows, pack(weights(seed, outDim * inDim), new Float32Array(outDim), outDim, inDim), inDim, outDim);
        const found = arena.readFloats(y, rows * (outDim + gap));
        expect(found.every((value, index) => (index % (outDim + gap) < outDim ? value === 0 : value === 77))).toBe(true);
      }),
      { numRuns: RUNS },
    );
  });

  it('should give a row the same bits alone, among 64, and in chunks of any size', () => {
    const [rows, inDim, outDim] = [64, 192, 96];
    const [x, w, scales] = [noise(7)(rows * inDim), weights(8, outDim * inDim), noise(9)(outDim)];
    const together = run(x, pack(w, scales, outDim, inDim), rows, inDim, outDim);
    for (const chunk of [1, 2, 3, 5, 7, 31]) {
      for (let r = 0; r < rows; r += chunk) {
        arena.reset();
        const n = Math.min(chunk, rows - r);
        const y = run(x.slice(r * inDim, (r + n) * inDim), pack(w, scales, outDim, inDim), n, inDim, outDim);
        expectSameBits(y, together.slice(r * outDim, (r + n) * outDim));
      }
    }
  });

  it('should multiply head by head as separate calls would', () => {
    const [rows, heads, inDim, outDim] = [5, 3, 12, 20];
    const x = noise(10)(rows * inDim);
    const [q, rowScales, y] = [arena.room(rows * inDim * 2), arena.room(rows * 4), arena.room(rows * heads * outDim * 4)];
    const parts = Array.from({ length: heads }, (_, h) => ({ w: weights(h, outDim * inDim), scales: noise(20 + h)(outDim) }));
    const bytes = packedBytes(outDim, inDim, 'int8');
    const packed = arena.room(heads * bytes);
    for (const [h, { w, scales }] of parts.entries()) kernels.copyBytes(packed + h * bytes, pack(w, scales, outDim, inDim), bytes);
    kernels.quantizeRows(q, rowScales, arena.floats(x), inDim, rows, inDim);
    kernels.matmulHeadsInt8(y, heads * outDim, outDim, q, rowScales, rows, heads, packed, bytes, inDim, outDim);
    const found = arena.readFloats(y, rows * heads * outDim);
    for (let r = 0; r < rows; r++)
      for (const [h, { w, scales }] of parts.entries())
        expectSameBits(found.slice((r * heads + h) * outDim, (r * heads + h + 1) * outDim), matvecInt8(x.slice(r * inDim, (r + 1) * inDim), w, scales, outDim));
  });

  it('should be off by no more than half a scale an activation, whatever the row', () => {
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 2, maxLength: 40 }), (values) => {
        arena.reset();
        const inDim = values.length & ~1;
        const x = Float32Array.from(values.slice(0, inDim));
        const [q, scales] = [arena.room(inDim * 2), arena.room(4)];
        kernels.quantizeRows(q, scales, arena.floats(x), inDim, 1, inDim);
        const [scale = Number.NaN] = arena.readFloats(scales, 1);
        const found = new Int16Array(arena.memory.buffer, q, inDim);
        for (const [k, value] of x.entries()) {
          expect(Math.abs(at(found, k))).toBeLessThanOrEqual(127);
          expect(Math.abs(value - at(found, k) * scale)).toBeLessThanOrEqual(scale * 0.50002);
        }
      }),
    );
  });

  it('should hold the largest sum that it may be given, and no longer one', () => {
    const inDim = INT8_INPUTS_MAX & ~1;
    const w = new Int8Array(inDim).fill(-128);
    for (const sign of [1, -1]) {
      arena.reset();
      const [y = Number.NaN] = run(new Float32Array(inDim).fill(sign), pack(w, new Float32Array([1]), 1, inDim), 1, inDim, 1);
      expect(y).toBe(Math.fround(Math.fround(-128 * 127 * inDim * sign) * scaleOf(1)));
    }
    expect(INT8_INPUTS_MAX * 127 * 128).toBeLessThan(2 ** 31);
    expect((INT8_INPUTS_MAX + 1) * 127 * 128).toBeGreaterThanOrEqual(2 ** 31);
  });

  it('should make NaN of a row that is not finite, and of no other', () => {
    const [rows, inDim, outDim] = [5, 8, 20];
    const x = noise(3)(rows * inDim);
    x[2 * inDim + 5] = Number.POSITIVE_INFINITY;
    x[4 * inDim + 1] = Number.NaN;
    const y = run(x, pack(weights(4, outDim * inDim), noise(5)(outDim), outDim, inDim), rows, inDim, outDim);
    for (let r = 0; r < rows; r++) expect(y.slice(r * outDim, (r + 1) * outDim).every(Number.isNaN)).toBe(r === 2 || r === 4);
    expect(y.slice(0, outDim).every(Number.isFinite)).toBe(true);
  });

  it('should lay pairs side by side in panels, and pad them with zeros', () => {
    const [outDim, inDim] = [18, 6];
    const w = Int8Array.from({ length: outDim * inDim }, (_, index) => index + 1);
    const packed = new Int8Array(arena.memory.buffer, pack(w, new Float32Array(outDim), outDim, inDim), panelBytes(outDim, inDim, 'int8'));
    for (const [index, value] of packed.entries()) {
      const [panel, rest] = [Math.floor(index / (PANEL * inDim)), index % (PANEL * inDim)];
      const [pair, o, k] = [Math.floor(rest / 32), panel * PANEL + ((rest % 32) >> 1), rest & 1];
      expect(value).toBe(o < outDim ? at(w, o * inDim + 2 * pair + k) : 0);
    }
  });
});
