import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { at, bitsOf, f, floatOf } from '../golden/reference.ts';
import { type Quantized, quantize } from '../golden/reference-int8.ts';
import { runs } from '../property-runs.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

type Shape = { rows: number; dim: number; stride: number; shift: number };

/** Any rows, any dim, with tails; rows in memory apart by a stride, rows on the wire at any alignment. */
const shape: fc.Arbitrary<Shape> = fc
  .record({
    rows: fc.integer({ min: 0, max: 6 }),
    dim: fc.integer({ min: 0, max: 70 }),
    gap: fc.integer({ min: 0, max: 5 }),
    shift: fc.integer({ min: 0, max: 3 }),
  })
  .map(({ rows, dim, gap, shift }) => ({ rows, dim, stride: dim + gap, shift }));

/** Bytes of a wire, `shift` bytes off the alignment of a float. */
function wireRoom(bytes: number, shift: number): number {
  const place = arena.room(bytes + 4);
  new Uint8Array(arena.memory.buffer, place, bytes + 4).fill(0x5a);
  return place + shift;
}

/** Copies the wire's bytes, and fails if those beside it were written. */
function readWire(address: number, bytes: number, shift: number): Uint8Array {
  const all = new Uint8Array(arena.memory.buffer, address - shift, bytes + 4).slice();
  const beside = [...all.subarray(0, shift), ...all.subarray(shift + bytes)];
  expect(beside.every((byte) => byte === 0x5a)).toBe(true);
  return all.slice(shift, shift + bytes);
}

/** Row r of values that lie `stride` apart. */
const rowOf = (values: Float32Array, r: number, { stride, dim }: Shape): Float32Array => values.slice(r * stride, r * stride + dim);

/** Reads rows that a kernel wrote at a stride, and fails if it wrote between them. */
function readRows(y: number, { rows, dim, stride }: Shape): Float32Array[] {
  const all = arena.readWords(y, rows * stride);
  return Array.from({ length: rows }, (_, r) => {
    expect(all.subarray(r * stride + dim, (r + 1) * stride).every((word) => word === 0xffffffff)).toBe(true);
    return new Float32Array(all.slice(r * stride, r * stride + dim).buffer);
  });
}

// ---------------------------------------------------------------- INT8

function runQuantize(x: Float32Array, s: Shape): Quantized[] {
  const q = wireRoom(s.rows * s.dim, s.shift);
  const scales = arena.room(s.rows * 4);
  kernels.quantizeInt8(q, scales, arena.floats(x), s.stride, s.rows, s.dim);
  const bytes = readWire(q, s.rows * s.dim, s.shift);
  const found = arena.readFloats(scales, s.rows);
  return Array.from({ length: s.rows }, (_, r) => ({ q: new Int8Array(bytes.slice(r * s.dim, (r + 1) * s.dim).buffer), scale: at(found, r) }));
}

function runDequantize(wire: Quantized[], s: Shape): Float32Array[] {
  const q = wireRoom(s.rows * s.dim, s.shift);
  new Int8Array(arena.memory.buffer).set(
    wire.flatMap((row) => [...row.q]),
    q,
  );
  const y = arena.room(s.rows * s.stride * 4);
  kernels.dequantizeInt8(y, s.stride, q, arena.floats(wire.map((row) => row.scale)), s.rows, s.dim);
  return readRows(y, s);
}

/** What a row may look like: noise of any magnitude down to denormals, ties between two steps, zeros. */
const INT8_ROWS: Record<string, (make: (count: number) => Float32Array, count: number) => Float32Array> = {
  noise: (make, count) => make(count),
  huge: (make, count) => make(count).map((v) => v * 2 ** 125),
  small: (make, count) => make(count).map((v) => v * 2 ** -122),
  denormal: (make, count) => make(count).map((v) => v * 2 ** -142),
  ties: (make, count) => make(count).map((v, i) => (i === 0 ? -127 : Math.round(v * 30) + 0.5) / 8),
  zeros: (_, count) => new Float32Array(count).map((_, i) => (i % 2 ? -0 : 0)),
};
const kind = fc.constantFrom(...Object.keys(INT8_ROWS));

describe('INT8 with one scale a token', () => {
  it('should equal the scalar reference bit for bit both ways, for any shape and magnitude', () => {
    fc.assert(
      fc.property(shape, kind, fc.nat(), (s, name, seed) => {
        arena.reset();
        const make = noise(seed);
        const x = INT8_ROWS[name]?.(make, s.rows * s.stride) ?? make(0);
        const want = Array.from({ length: s.rows }, (_, r) => quantize(rowOf(x, r, s)));
        const got = runQuantize(x, s);
        expect(got.map(({ q }) => [...q])).toEqual(want.map(({ q }) => [...q]));
        expectSameBits(
          Float32Array.from(got, ({ scale }) => scale),
          want.map(({ scale }) => scale),
        );
        runDequantize(got, s).forEach((row, r) => {
          const { q, scale } = want[r] ?? { q: new Int8Array(), scale: Number.NaN };
          expectSameBits(
            row,
            Float32Array.from(q, (v) => f(v * scale)),
          );
        });
      }),
      { numRuns: runs(6) * RUNS },
    );
  });

  it('should give back each value within half a scale, whatever its magnitude', () => {
    const rounding = 1 + 2 ** -15; // of the quotient and of the product, at 127
    for (const [index, fill] of Object.values(INT8_ROWS).entries()) {
      arena.reset();
      const s = { rows: 40, dim: 67, stride: 67, shift: 0 };
      const x = fill(noise(index), s.rows * s.dim);
      const wire = runQuantize(x, s);
      runDequantize(wire, s).forEach((row, r) => {
        const half = ((wire[r]?.scale ?? Number.NaN) / 2) * rounding;
        row.forEach((v, i) => {
          expect(Math.abs(v - at(x, r * s.dim + i))).toBeLessThanOrEqual(half);
        });
      });
    }
  });

  it('should change nothing that was in this form before, whatever its magnitude', () => {
    for (const [index, fill] of Object.values(INT8_ROWS).entries()) {
      arena.reset();
      const s = { rows: 40, dim: 67, stride: 67, shift: 0 };
      const once = runDequantize(runQuantize(fill(noise(index), s.rows * s.dim), s), s);
      const again = runDequantize(runQuantize(Float32Array.from(once.flatMap((row) => [...row])), s), s);
      for (const [r, row] of again.entries()) expectSameBits(row, once[r] ?? []);
    }
  });

  it('should hide nothing that is not finite: such a row comes back as NaN, its neighbours untouched', () => {
    const s = { rows: 3, dim: 37, stride: 37, shift: 1 };
    for (const bad of [Number.NaN, Infinity, -Infinity]) {
      for (const where of [0, 15, 31, 32, 36]) {
        arena.reset();
        const x = noise(where)(s.rows * s.dim);
        x[s.dim + where] = bad;
        const wire = runQuantize(x, s);
        expect([...(wire[1]?.q ?? [])]).toEqual([...new Int8Array(s.dim)]);
        const back = runDequantize(wire, s);
        expect(back.map((row) => row.every(Number.isNaN))).toEqual([false, true, false]);
        expect(back.map((row) => row.every(Number.isFinite))).toEqual([true, false, true]);
      }
    }
  });

  it('should take a quotient half way between two integers to the even one', () => {
    const x = Float32Array.from([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 3.4999998, -127, 0]);
    const [row] = runQuantize(x, { rows: 1, dim: x.length, stride: x.length, shift: 0 });
    expect(row?.scale).toBe(1);
    expect([...(row?.q ?? [])]).toEqual([127, 0, 2, 2, 0, -2, -2, 126, -126, 3, -127, 0]);
  });
});

// ---------------------------------------------------------------- BF16

/** The upper half of the nearest float with an empty lower half, found by distance; NaN stays NaN and becomes quiet. */
function bf16(bits: number): number {
  const x = floatOf(bits);
  const lower = bits >>> 16;
  if (Number.isNaN(x)) return lower | 0x40;
  if (!Number.isFinite(x)) return lower;
  const meant = (half: number): number => ((half & 0x7fff) === 0x7f80 ? Math.sign(x) * 2 ** 128 : floatOf(half << 16));
  const [toLower, toUpper] = [Math.abs(x - meant(lower)), Math.abs(x - meant(lower + 1))];
  if (toLower !== toUpper) return toLower < toUpper ? lower : lower + 1;
  return lower % 2 === 0 ? lower : lower + 1;
}

function runPack(bits: Uint32Array, s: Shape): Uint16Array {
  const y = wireRoom(s.rows * s.dim * 2, s.shift);
  kernels.packRowsBf16(y, arena.words(bits), s.stride, s.rows, s.dim);
  return new Uint16Array(readWire(y, s.rows * s.dim * 2, s.shift).buffer);
}

function runUnpack(halves: Uint16Array, s: Shape): Float32Array[] {
  const x = wireRoom(s.rows * s.dim * 2, s.shift);
  new Uint8Array(arena.memory.buffer).set(new Uint8Array(halves.buffer), x);
  const y = arena.room(s.rows * s.stride * 4);
  kernels.unpackRowsBf16(y, s.stride, x, s.rows, s.dim);
  return readRows(y, s);
}

describe('rows in BF16', () => {
  /** Any bits, and those at which rounding turns: ties, carries into the exponent, the largest, infinity, NaN with a payload in the lower half. */
  const word = fc.oneof(
    fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    fc
      .tuple(
        fc.constantFrom(0, 0x3f80, 0x3fff, 0x7f7e, 0x7f7f, 0x7f80, 0x7fbf, 0x7fff, 1, 0x80),
        fc.constantFrom(0, 1, 0x7fff, 0x8000, 0x8001, 0xffff),
        fc.constantFrom(0, 0x8000),
      )
      .map(([upper, lower, sign]) => (((upper | sign) << 16) | lower) >>> 0),
  );

  it('should round to the nearest, half to even, and keep NaN, for any bits and shape', () => {
    fc.assert(
      fc.property(shape, fc.array(word, { minLength: 6 * 75, maxLength: 6 * 75 }), (s, words) => {
        arena.reset();
        const bits = Uint32Array.from(words.slice(0, s.rows * s.stride));
        const want = Array.from({ length: s.rows * s.dim }, (_, i) => bf16(at(bits, Math.floor(i / s.dim) * s.stride + (i % s.dim))));
        expect([...runPack(bits, s)]).toEqual(want);
      }),
      { numRuns: runs(2) * RUNS },
    );
  });

  it('should widen every BF16 exactly, and pack what was widened to the same bits but for the quiet bit of NaN', () => {
    for (const s of [
      { rows: 64, dim: 1024, stride: 1024, shift: 0 },
      { rows: 1, dim: 65536, stride: 65536, shift: 3 },
      { rows: 4369, dim: 15, stride: 17, shift: 1 },
    ]) {
      arena.reset();
      const all = Uint16Array.from({ length: s.rows * s.dim }, (_, i) => i);
      const rows = runUnpack(all, s);
      const bits = rows.map((row) => new Uint32Array(row.buffer));
      expect(bits.every((row, r) => row.every((word, i) => word === (r * s.dim + i) * 65536))).toBe(true);

      const flat = { ...s, stride: s.dim };
      const packed = runPack(
        Uint32Array.from(all, (half) => half * 65536),
        flat,
      );
      expect(packed.every((half, i) => half === (Number.isNaN(floatOf(i << 16)) ? i | 0x40 : i))).toBe(true);
    }
  });

  it('should be the nearest of all BF16 on a scale that a reader can follow', () => {
    const x = Float32Array.from([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8, 3.3895313892515355e38, 3.4e38, 2 ** -149, 0, -0]);
    const want = [1, 1, 1 + 2 ** -6, -1, 3.3895313892515355e38, Infinity, 0, 0, -0];
    const s = { rows: 1, dim: x.length, stride: x.length, shift: 0 };
    const [row] = runUnpack(
      runPack(
        Uint32Array.from(x, (v) => bitsOf(v) >>> 0),
        s,
      ),
      s,
    );
    expectSameBits(row ?? new Float32Array(), want);
  });
});
