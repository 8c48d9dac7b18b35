import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { attentionScratchBytes, gqaLayerBytes, kvTileBytes, mlaLayerBytes } from '../../src/model/kernels/kernels.ts';
import { quantize } from '../golden/reference-int8.ts';
import { createArena, expectSameBits, noise, RUNS } from './kernels-arena.ts';

const arena = await createArena();
const { kernels } = arena;
afterEach(() => arena.reset());

const BLOCK = 16;
const widened = (x: Float32Array): Float32Array => {
  const { q, scale } = quantize(x);
  return Float32Array.from(q, (value) => Math.fround(value * scale));
};

/** To nearest, half to even. */
const asBf16 = (x: Float32Array): Float32Array => {
  const words = new Uint32Array(x.slice().buffer).map((word) => ((word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000) >>> 0);
  return new Float32Array(words.buffer);
};

const shape = fc.record({
  positions: fc.integer({ min: 1, max: 50 }),
  chunk: fc.integer({ min: 1, max: 50 }),
  rows: fc.integer({ min: 1, max: 5 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 3 }),
  quarter: fc.integer({ min: 1, max: 9 }),
  seed: fc.nat(),
});

/** A sequence's blocks for a layer, and what its rows are: `first` … of so many positions. */
function sequence(
  positions: number,
  layer_bytes: number,
): { table: number; spanOf: (first: number, count: number) => number; positionsOf: (first: number, count: number) => number } {
  const blocks = Array.from({ length: Math.ceil(positions / BLOCK) }, () => arena.room(layer_bytes));
  const table = arena.words(blocks);
  return {
    table,
    spanOf: (first, count) => arena.words([0, count, table, first]),
    positionsOf: (first, count) => arena.words(Array.from({ length: count }, (_, index) => first + index)),
  };
}

/** Calls `act` for chunks of a sequence. */
function inChunks(positions: number, chunk: number, act: (first: number, count: number) => void): void {
  for (let first = 0; first < positions; first += chunk) act(first, Math.min(chunk, positions - first));
}

describe('attention over KV in INT8', () => {
  it('should be MLA over what the cells widen to, bit for bit, however they were stored', () => {
    fc.assert(
      fc.property(shape, ({ positions, chunk, rows: wanted, group: heads, quarter, seed }) => {
        arena.reset();
        const [latent, rope, rows] = [4 * quarter, 8, Math.min(wanted, positions)];
        const width = latent + rope;
        const cells = noise(seed)(positions * width);
        const q = arena.floats(noise(seed + 1)(rows * heads * width));
        const results = (['int8', 'f32'] as const).map((format) => {
          const isInt8 = format === 'int8';
          const { spanOf, positionsOf } = sequence(positions, mlaLayerBytes(BLOCK, latent, rope, format));
          // The plain cache is given what the quantised one widens to.
          const stored = cells.slice();
          if (!isInt8)
            for (let at = 0; at < stored.length; at += width) {
              stored.set(widened(cells.slice(at, at + latent)), at);
              stored.set(asBf16(cells.slice(at + latent, at + width)), at + latent);
            }
          const from = arena.floats(stored);
          inChunks(positions, isInt8 ? chunk : positions, (first, count) => {
            const row = from + first * width * 4;
            const store = isInt8 ? kernels.mlaStoreSpansInt8 : kernels.mlaStoreSpans;
            store(row, width, row + latent * 4, width, spanOf(0, count), 1, latent, rope, BLOCK, 0, positionsOf(first, count));
          });
          const out = arena.room(rows * heads * latent * 4);
          const scratch = arena.room(kvTileBytes(width, format) + attentionScratchBytes(rows, heads));
          const attend = isInt8 ? kernels.mlaAttentionSpansInt8 : kernels.mlaAttentionSpans;
          const [span, own] = [spanOf(0, rows), positionsOf(positions - rows, rows)];
          attend(out, heads * latent, q, heads * width, span, 1, heads, latent, rope, BLOCK, 0, own, 0.2, scratch);
          return arena.readFloats(out, rows * heads * latent);
        });
        expectSameBits(results[0] as Float32Array, results[1] as Float32Array);
      }),
      { numRuns: RUNS },
    );
  });

  it('should be GQA over what each head’s keys and values widen to, bit for bit, however they were stored', () => {
    fc.assert(
      fc.property(shape, ({ positions, chunk, rows: wanted, kvHeads, group, quarter, seed }) => {
        arena.reset();
        const [headDim, rows, heads] = [4 * quarter, Math.min(wanted, positions), kvHeads * group];
        const width = kvHeads * headDim;
        const [keys, values] = [noise(seed)(positions * width), noise(seed + 2)(positions * width)];
        const q = arena.floats(noise(seed + 1)(rows * heads * headDim));
        const results = (['int8', 'f32'] as const).map((format) => {
          const isInt8 = format === 'int8';
          const { spanOf, positionsOf } = sequence(positions, gqaLayerBytes(BLOCK, kvHeads, headDim, format));
          const [k, v] = [keys, values].map((cells) => {
            const stored = cells.slice();
            if (!isInt8) for (let at = 0; at < stored.length; at += headDim) stored.set(widened(cells.slice(at, at + headDim)), at);
            return arena.floats(stored);
          }) as [number, number];
          inChunks(positions, isInt8 ? chunk : positions, (first, count) => {
            const skip = first * width * 4;
            const store = isInt8 ? kernels.gqaStoreSpansInt8 : kernels.gqaStoreSpans;
            store(k + skip, width, v + skip, width, spanOf(0, count), 1, kvHeads, headDim, BLOCK, 0, positionsOf(first, count));
          });
          const out = arena.room(rows * heads * headDim * 4);
          const scratch = arena.room(kvTileBytes(2 * headDim, format) + attentionScratchBytes(rows, heads));
          const attend = isInt8 ? kernels.gqaAttentionSpansInt8 : kernels.gqaAttentionSpans;
          const [span, own] = [spanOf(0, rows), positionsOf(positions - rows, rows)];
          attend(out, heads * headDim, q, heads * headDim, span, 1, heads, kvHeads, headDim, BLOCK, 0, own, 0.3, scratch);
          return arena.readFloats(out, rows * heads * headDim);
        });
        expectSameBits(results[0] as Float32Array, results[1] as Float32Array);
      }),
      { numRuns: RUNS },
    );
  });

  it('should take at most 0.66 of what a position takes in BF16, for DeepSeek-V3’s latents and the shipped model’s', () => {
    for (const [latent, rope] of [
      [512, 64],
      [64, 16],
    ] as const)
      expect(mlaLayerBytes(BLOCK, latent, rope, 'int8')).toBeLessThanOrEqual(0.66 * BLOCK * (latent + rope) * 2);
    expect(gqaLayerBytes(BLOCK, 2, 128, 'int8')).toBeLessThanOrEqual(0.54 * BLOCK * 2 * 2 * 128 * 2);
  });
});
