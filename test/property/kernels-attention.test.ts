import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { attentionScratchBytes, gqaLayerBytes, mlaLayerBytes } from '../../src/model/kernels/kernels.ts';
import { attention } from '../golden/reference.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

const LAYER_OFFSET = 64;

/** A shuffled block table for `positions` positions: blocks never lie in order. */
function blocks(positions: number, blockSize: number, layerBytes: number): number {
  const count = Math.ceil(positions / blockSize);
  const addresses = Array.from({ length: count }, () => arena.room(LAYER_OFFSET + layerBytes));
  return arena.words(addresses.toReversed());
}

type Kv = { latents: Float32Array; ropes: Float32Array; length: number };

/** MLA of the rows at `positions` over `length` stored positions, in chunks of rows. Returns [rows, heads * latent]. */
function mla(q: Float32Array, kv: Kv, positions: number[], dims: { heads: number; latent: number; rope: number }, blockSize: number, chunk: number, first = 0) {
  const { heads, latent, rope } = dims;
  const table = blocks(kv.length, blockSize, mlaLayerBytes(blockSize, latent, rope));
  const all = arena.words(Array.from({ length: kv.length }, (_, i) => i));
  kernels.mlaStore(arena.floats(kv.latents), latent, arena.floats(kv.ropes), rope, kv.length, latent, rope, table, blockSize, LAYER_OFFSET, all);
  const out = arena.room(positions.length * heads * latent * 4);
  const from = arena.floats(q);
  const where = arena.words(positions);
  const scratch = arena.room(attentionScratchBytes(chunk, heads));
  const qStride = heads * (latent + rope);
  for (let r = 0; r < positions.length; r += chunk) {
    const rows = Math.min(chunk, positions.length - r);
    const to = out + r * heads * latent * 4;
    kernels.mlaAttention(
      to,
      heads * latent,
      from + r * qStride * 4,
      qStride,
      rows,
      heads,
      latent,
      rope,
      table,
      blockSize,
      LAYER_OFFSET,
      where + r * 4,
      first,
      0.17,
      scratch,
    );
  }
  return arena.readFloats(out, positions.length * heads * latent);
}

type Heads = { heads: number; kvHeads: number; headDim: number };

function gqa(q: Float32Array, k: Float32Array, v: Float32Array, length: number, positions: number[], dims: Heads, blockSize: number, chunk: number) {
  const { heads, kvHeads, headDim } = dims;
  const table = blocks(length, blockSize, gqaLayerBytes(blockSize, kvHeads, headDim));
  const all = arena.words(Array.from({ length }, (_, i) => i));
  const stride = kvHeads * headDim;
  kernels.gqaStore(arena.floats(k), stride, arena.floats(v), stride, length, kvHeads, headDim, table, blockSize, LAYER_OFFSET, all);
  const width = heads * headDim;
  const out = arena.room(positions.length * width * 4);
  const from = arena.floats(q);
  const where = arena.words(positions);
  const scratch = arena.room(attentionScratchBytes(chunk, heads));
  for (let r = 0; r < positions.length; r += chunk) {
    const rows = Math.min(chunk, positions.length - r);
    const [to, start] = [out + r * width * 4, from + r * width * 4];
    kernels.gqaAttention(to, width, start, width, rows, heads, kvHeads, headDim, table, blockSize, LAYER_OFFSET, where + r * 4, 0.17, scratch);
  }
  return arena.readFloats(out, positions.length * width);
}

const rowsOf = (values: Float32Array, width: number): Float32Array[] =>
  Array.from({ length: values.length / width }, (_, i) => values.slice(i * width, (i + 1) * width));

const join = (a: Float32Array, b: Float32Array): Float32Array => Float32Array.from([...a, ...b]);

describe('MLA', () => {
  const dims = fc.record({
    heads: fc.integer({ min: 1, max: 5 }),
    latent: fc.integer({ min: 1, max: 10 }).map((n) => n * 4),
    rope: fc.integer({ min: 1, max: 3 }).map((n) => n * 4),
  });

  it('should equal the scalar reference bit for bit, for any rows, block size and chunk', () => {
    fc.assert(
      fc.property(
        dims,
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 1, max: 6 }),
        fc.constantFrom(16, 32, 48),
        fc.integer({ min: 1, max: 6 }),
        fc.nat(),
        (d, length, rows, blockSize, chunk, seed) => {
          arena.reset();
          const make = noise(seed);
          const kv = { latents: make(length * d.latent), ropes: make(length * d.rope), length };
          const positions = Array.from({ length: rows }, (_, r) => Math.max(length - rows + r, 0));
          const q = make(rows * d.heads * (d.latent + d.rope));
          const out = mla(q, kv, positions, d, blockSize, chunk);
          const values = rowsOf(kv.latents, d.latent);
          const ropes = rowsOf(kv.ropes, d.rope);
          const keys = values.map((latent, i) => join(latent, ropes[i] ?? new Float32Array()));
          const want = rowsOf(q, d.latent + d.rope).map((query, i) => {
            const n = (positions[Math.floor(i / d.heads)] ?? 0) + 1;
            return [...attention(query, keys.slice(0, n), values.slice(0, n), 0.17)];
          });
          expectSameBits(out, want.flat());
        },
      ),
      { numRuns: RUNS },
    );
  });

  it('should give the same bits whatever the block size, the chunk of rows, and the KV that a row does not see', () => {
    const make = noise(3);
    const d = { heads: 6, latent: 64, rope: 16 };
    const length = 150;
    const kv = { latents: make(length * d.latent), ropes: make(length * d.rope), length };
    const positions = Array.from({ length }, (_, i) => i);
    const q = make(length * d.heads * (d.latent + d.rope));
    const whole = mla(q, kv, positions, d, 16, length);
    for (const [blockSize, chunk] of [
      [16, 1],
      [32, 7],
      [64, 64],
      [128, 33],
    ] as const) {
      arena.reset();
      expectSameBits(mla(q, kv, positions, d, blockSize, chunk), whole);
    }
    // cut after position 40: what was not seen was NaN here
    arena.reset();
    const cut = { latents: kv.latents.slice(0, 41 * d.latent), ropes: kv.ropes.slice(0, 41 * d.rope), length: 41 };
    const width = d.heads * (d.latent + d.rope);
    const last = mla(q.slice(40 * width, 41 * width), cut, [40], d, 64, 1);
    expectSameBits(last, whole.slice(40 * d.heads * d.latent, 41 * d.heads * d.latent));
  });

  it.each([1, 5, 16, 22])('should leave out what is before position %i where that is hidden, whatever lies there and however the rows are cut', (first) => {
    const d = { heads: 3, latent: 20, rope: 4 };
    const length = 37;
    const kv = { latents: noise(11)(length * d.latent).fill(NaN, 0, first * d.latent), ropes: noise(12)(length * d.rope).fill(NaN, 0, first * d.rope), length };
    const positions = Array.from({ length: length - first }, (_, i) => i + first);
    const q = noise(13)(positions.length * d.heads * (d.latent + d.rope));
    const whole = mla(q, kv, positions, d, 16, length, first);
    arena.reset();
    expectSameBits(mla(q, kv, positions, d, 32, 5, first), whole);
    const values = rowsOf(kv.latents, d.latent);
    const keys = values.map((latent, i) => join(latent, rowsOf(kv.ropes, d.rope)[i] ?? new Float32Array()));
    const want = rowsOf(q, d.latent + d.rope).flatMap((query, i) => {
      const n = (positions[Math.floor(i / d.heads)] ?? 0) + 1;
      return [...attention(query, keys.slice(first, n), values.slice(first, n), 0.17)];
    });
    // The tiles are others, so the bits may be.
    expect(Math.max(...want.map((value, index) => Math.abs(value - (whole[index] as number))))).toBeLessThan(1e-5);
  });

  it('should hand on NaN from a position that is seen, so that a block that was never written shows', () => {
    const d = { heads: 2, latent: 16, rope: 4 };
    const kv = { latents: noise(5)(20 * 16).fill(NaN, 7 * 16, 8 * 16), ropes: noise(6)(20 * 4), length: 20 };
    const out = mla(noise(7)(2 * d.heads * 20), kv, [6, 19], d, 16, 2);
    expect(out.slice(0, 32).every(Number.isFinite)).toBe(true);
    expect(out.slice(32).every(Number.isNaN)).toBe(true);
  });

  it('should stay near a plain float64 softmax', () => {
    const make = noise(4);
    const d = { heads: 2, latent: 32, rope: 8 };
    const length = 200;
    const kv = { latents: make(length * d.latent), ropes: make(length * d.rope), length };
    const q = make(d.heads * 40);
    const out = mla(q, kv, [length - 1], d, 16, 1);
    for (let h = 0; h < d.heads; h++) {
      const weights = Array.from({ length }, (_, j) => {
        let s = 0;
        for (let i = 0; i < 40; i++) s += (q[h * 40 + i] ?? 0) * ((i < 32 ? kv.latents[j * 32 + i] : kv.ropes[j * 8 + i - 32]) ?? 0);
        return Math.exp(s * 0.17);
      });
      const total = weights.reduce((a, b) => a + b);
      for (let c = 0; c < 32; c++) {
        const want = weights.reduce((sum, w, j) => sum + w * (kv.latents[j * 32 + c] ?? 0), 0) / total;
        expect(Math.abs((out[h * 32 + c] ?? NaN) - want)).toBeLessThan(2e-5);
      }
    }
  });
});

describe('GQA', () => {
  it('should equal the scalar reference bit for bit, for any grouping, rows, block size and chunk', () => {
    fc.assert(
      fc.property(
        fc.record({ group: fc.integer({ min: 1, max: 4 }), kvHeads: fc.integer({ min: 1, max: 3 }), headDim: fc.constantFrom(4, 16, 20, 32) }),
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 1, max: 6 }),
        fc.constantFrom(16, 32, 48),
        fc.integer({ min: 1, max: 6 }),
        fc.nat(),
        ({ group, kvHeads, headDim }, length, rows, blockSize, chunk, seed) => {
          arena.reset();
          const make = noise(seed);
          const heads = group * kvHeads;
          const [k, v] = [make(length * kvHeads * headDim), make(length * kvHeads * headDim)];
          const positions = Array.from({ length: rows }, (_, r) => Math.max(length - rows + r, 0));
          const q = make(rows * heads * headDim);
          const out = gqa(q, k, v, length, positions, { heads, kvHeads, headDim }, blockSize, chunk);
          const [keys, values] = [rowsOf(k, headDim), rowsOf(v, headDim)];
          const want = rowsOf(q, headDim).map((query, i) => {
            const n = (positions[Math.floor(i / heads)] ?? 0) + 1;
            const g = Math.floor((i % heads) / group);
            const mine = (_: Float32Array, j: number) => j % kvHeads === g && Math.floor(j / kvHeads) < n;
            return [...attention(query, keys.filter(mine), values.filter(mine), 0.17)];
          });
          expectSameBits(out, want.flat());
        },
      ),
      { numRuns: RUNS },
    );
  });
});
