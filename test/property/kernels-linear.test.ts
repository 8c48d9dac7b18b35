import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { packedBytes } from '../../src/model/kernels/kernels.ts';
import { matvec } from '../golden/reference.ts';
import { runs } from '../property-runs.ts';
import { createArena, expectSameBits, noise, RUNS, toBf16 } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

/** Packs w [out, in] and multiplies rows of x; returns y [rows, out]. */
function run(dtype: 'bf16' | 'f32', x: Float32Array, w: Float32Array, rows: number, inDim: number, outDim: number): Float32Array {
  const packed = arena.room(packedBytes(outDim, inDim, dtype));
  const y = arena.room(rows * outDim * 4);
  if (dtype === 'bf16') {
    kernels.packBf16(packed, arena.halves(toBf16(w).raw), outDim, inDim, inDim);
    kernels.matmulBf16(y, outDim, arena.floats(x), inDim, rows, packed, inDim, outDim);
  } else {
    kernels.packF32(packed, arena.floats(w), outDim, inDim, inDim);
    kernels.matmulF32(y, outDim, arena.floats(x), inDim, rows, packed, inDim, outDim);
  }
  return arena.readFloats(y, rows * outDim);
}

const shape = fc.record({
  dtype: fc.constantFrom('bf16' as const, 'f32' as const),
  rows: fc.integer({ min: 1, max: 13 }),
  inDim: fc.integer({ min: 1, max: 70 }),
  outDim: fc.integer({ min: 1, max: 100 }),
  seed: fc.nat(),
});

describe('matmul', () => {
  it('should equal the scalar reference bit for bit, for any shape', () => {
    fc.assert(
      fc.property(shape, ({ dtype, rows, inDim, outDim, seed }) => {
        arena.reset();
        const make = noise(seed);
        const x = make(rows * inDim);
        const w = dtype === 'bf16' ? toBf16(make(outDim * inDim)).widened : make(outDim * inDim);
        const y = run(dtype, x, w, rows, inDim, outDim);
        for (let r = 0; r < rows; r++) expectSameBits(y.slice(r * outDim, (r + 1) * outDim), matvec(x.subarray(r * inDim, (r + 1) * inDim), w, outDim));
      }),
      { numRuns: runs(2) * RUNS },
    );
  });

  it('should give a row the same bits alone, among 64, and in chunks of any size', () => {
    const make = noise(7);
    const [rows, inDim, outDim] = [64, 192, 96];
    const x = make(rows * inDim);
    const w = make(outDim * inDim);
    for (const dtype of ['bf16', 'f32'] as const) {
      arena.reset();
      const together = run(dtype, x, w, rows, inDim, outDim);
      for (const chunk of [1, 2, 3, 5, 7, 31]) {
        for (let r = 0; r < rows; r += chunk) {
          arena.reset();
          const n = Math.min(chunk, rows - r);
          expectSameBits(run(dtype, x.slice(r * inDim, (r + n) * inDim), w, n, inDim, outDim), together.slice(r * outDim, (r + n) * outDim));
        }
      }
    }
  });

  it('should stay near float64', () => {
    const make = noise(8);
    const [rows, inDim, outDim] = [5, 512, 48];
    const x = make(rows * inDim);
    const w = make(outDim * inDim);
    const y = run('f32', x, w, rows, inDim, outDim);
    for (let i = 0; i < y.length; i++) {
      let sum = 0;
      let size = 0;
      for (let k = 0; k < inDim; k++) {
        const product = (x[Math.floor(i / outDim) * inDim + k] ?? NaN) * (w[(i % outDim) * inDim + k] ?? NaN);
        sum += product;
        size += Math.abs(product);
      }
      expect(Math.abs((y[i] ?? NaN) - sum)).toBeLessThan(size * 1e-6);
    }
  });

  it('should heed strides, and write nothing beyond outDim', () => {
    const make = noise(9);
    const [rows, inDim, outDim, xStride, yStride] = [7, 20, 21, 23, 40];
    const x = make(rows * xStride);
    const w = make(outDim * inDim);
    const packed = arena.room(packedBytes(outDim, inDim, 'f32'));
    const y = arena.floats(new Float32Array(rows * yStride).fill(77));
    kernels.packF32(packed, arena.floats(w), outDim, inDim, inDim);
    kernels.matmulF32(y, yStride, arena.floats(x), xStride, rows, packed, inDim, outDim);
    const got = arena.readFloats(y, rows * yStride);
    for (let r = 0; r < rows; r++) {
      expectSameBits(got.slice(r * yStride, r * yStride + outDim), matvec(x.slice(r * xStride, r * xStride + inDim), w, outDim));
      expect(got.slice(r * yStride + outDim, (r + 1) * yStride).every((v) => v === 77)).toBe(true);
    }
  });

  it('should multiply head by head as separate calls would, absorbed W_UK packed from its transpose', () => {
    const make = noise(10);
    const [rows, heads, nope, latent] = [5, 3, 12, 20];
    const x = make(rows * heads * nope);
    const w = Array.from({ length: heads }, () => toBf16(make(nope * latent))); // [nope, latent], as kv_b_proj stores W_UK
    for (const dtype of ['bf16', 'f32'] as const) {
      const headBytes = packedBytes(latent, nope, dtype);
      const packed = arena.room(heads * headBytes);
      w.forEach(({ raw, widened }, h) => {
        if (dtype === 'bf16') kernels.packBf16Transposed(packed + h * headBytes, arena.halves(raw), latent, nope, latent);
        else kernels.packF32Transposed(packed + h * headBytes, arena.floats(widened), latent, nope, latent);
      });
      const y = arena.room(rows * heads * latent * 4);
      const heads_ = dtype === 'bf16' ? kernels.matmulHeadsBf16 : kernels.matmulHeadsF32;
      heads_(y, heads * latent, latent, arena.floats(x), heads * nope, nope, rows, heads, packed, headBytes, nope, latent);
      const got = arena.readFloats(y, rows * heads * latent);
      for (let r = 0; r < rows; r++) {
        w.forEach(({ widened }, h) => {
          const transposed = Float32Array.from({ length: latent * nope }, (_, i) => widened[(i % nope) * latent + Math.floor(i / nope)] ?? NaN);
          const from = (r * heads + h) * nope;
          const to = (r * heads + h) * latent;
          expectSameBits(got.slice(to, to + latent), matvec(x.slice(from, from + nope), transposed, latent));
        });
      }
    }
  });
});

describe('packing', () => {
  it('should lay BF16 groups so that shift and mask unpack them, and pad with zeros, from any alignment', () => {
    const [outDim, inDim] = [18, 3];
    const raw = Uint16Array.from({ length: outDim * inDim + 1 }, (_, i) => 1000 + i);
    const src = arena.halves(raw) + 2; // not 4-byte aligned
    const dst = arena.room(packedBytes(outDim, inDim, 'bf16'));
    kernels.packBf16(dst, src, outDim, inDim, inDim);
    const packed = new Uint16Array(arena.memory.buffer, dst, 2 * 16 * inDim);
    const order = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
    for (let panel = 0; panel < 2; panel++) {
      for (let k = 0; k < inDim; k++) {
        order.forEach((o, slot) => {
          const out = panel * 16 + o;
          expect(packed[(panel * inDim + k) * 16 + slot]).toBe(out < outDim ? 1001 + out * inDim + k : 0);
        });
      }
    }
  });

  it('should widen every BF16 and every half exactly', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const src = arena.halves(all);
    const dst = arena.room(65536 * 4);
    kernels.widenBf16(dst, src, 65536);
    expect(arena.readWords(dst, 65536).every((bits, i) => bits === i * 65536)).toBe(true);
    kernels.widenF16(dst, src, 65536);
    const want = Float32Array.from(all, (h) => {
      const [sign, exponent, fraction] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023];
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
    });
    expectSameBits(arena.readFloats(dst, 65536), want);
  });
});
