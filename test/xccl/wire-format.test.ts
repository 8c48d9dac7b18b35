/** Rows in the formats of the wire, within a segment and between two. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Arena } from '../../src/fabric/arena.ts';
import { blockBytes, RowCodec, stagingBytes, WIRE_FORMATS, type WireFormat, type WireKernels } from '../../src/xccl/wire-format.ts';
import { expectSameBits } from '../property/kernels-arena.ts';
import { runs } from '../property-runs.ts';
import { floatsAt, makeDesks, scaleOf, throughWire, wordsAt } from './exchange-rig.ts';
import type { App } from './rig.ts';
import { numbers } from './rig.ts';

const ROWS_MAX = 150;
const HIDDEN_MAX = 50;
const SHAPE = { sources: 2, destinations: 2, hidden: HIDDEN_MAX, top_k: 1, tokens_max: ROWS_MAX, rank_of_expert: [0, 1] };
/** Two dies, each alone in a segment. */
const { space, apps, kernelsOf } = makeDesks(2, SHAPE, 2);

function place(die: number, hidden: number) {
  const { address, bytes } = apps[die] as App;
  const arena = new Arena(address, bytes);
  const codec = new RowCodec(space, kernelsOf(die) as WireKernels, hidden, arena.allocate(stagingBytes(hidden)));
  return { codec, rows: arena.allocate(4 * ROWS_MAX * hidden), block: arena.allocate(4 * ROWS_MAX * hidden + 1_024), arena };
}

function random(count: number, seed: number): Float32Array {
  const next = numbers(seed);
  next();
  const size = 10 ** Math.floor(next() * 12 - 6);
  return Float32Array.from({ length: count }, () => (next() - 0.5) * size);
}

const cases = fc.record({
  rows: fc.integer({ min: 0, max: ROWS_MAX }),
  hidden: fc.integer({ min: 1, max: HIDDEN_MAX }),
  reader: fc.constantFrom(0, 1),
  seed: fc.nat(),
});

describe.each(WIRE_FORMATS)('%s', (format: WireFormat) => {
  it('brings back the row as the format has it, read in place or from another segment, and writes nothing beside it', () => {
    fc.assert(
      fc.property(cases, ({ rows, hidden, reader, seed }) => {
        const writer = place(0, hidden);
        const target = place(reader, hidden);
        const values = random(rows * hidden, seed);
        floatsAt(space, writer.rows, values.length).set(values);
        const bytes = blockBytes(format, rows, hidden);
        const block = space.bytesAt(writer.block, bytes + 64).fill(0x5a);
        writer.codec.encode(writer.block, writer.rows, rows, format);
        expect(block.subarray(bytes)).toEqual(new Uint8Array(64).fill(0x5a));
        const decoded = space.bytesAt(target.rows, 4 * ROWS_MAX * hidden).fill(0x5a);
        target.codec.decode(target.rows, writer.block, rows, format);
        expect(decoded.subarray(4 * rows * hidden).every((byte) => byte === 0x5a)).toBe(true);
        for (let row = 0; row < rows; row++) {
          const back = floatsAt(space, target.rows + 4 * row * hidden, hidden).slice();
          expectSameBits(back, throughWire(values.slice(row * hidden, (row + 1) * hidden), format));
        }
      }),
      { numRuns: runs(60) },
    );
  });

  it('of chosen rows is the same as of the rows', () => {
    fc.assert(
      fc.property(cases, fc.array(fc.nat(), { maxLength: ROWS_MAX }), ({ rows, hidden, seed }, picks) => {
        const { codec, rows: from, block, arena } = place(0, hidden);
        const chosen = rows === 0 ? [] : picks.map((pick) => pick % rows);
        const indices = arena.allocate(4 * ROWS_MAX);
        const gathered = arena.allocate(4 * ROWS_MAX * hidden + 1_024);
        const values = random(rows * hidden, seed);
        floatsAt(space, from, values.length).set(values);
        wordsAt(space, indices, chosen.length).set(chosen);
        codec.encode(block, from, rows, format);
        codec.gather(gathered, block, rows, indices, chosen.length, format);
        codec.decode(from, gathered, chosen.length, format);
        chosen.forEach((row, index) => {
          expectSameBits(floatsAt(space, from + 4 * index * hidden, hidden).slice(), throughWire(values.slice(row * hidden, (row + 1) * hidden), format));
        });
      }),
      { numRuns: runs(40) },
    );
  });
});

it('f32 changes no bit, not even of NaN and minus zero', () => {
  const { codec, rows, block } = place(0, 4);
  const words = [0x7fc0_0001, 0x8000_0000, 0x7f80_0000, 1];
  wordsAt(space, rows, 4).set(words);
  codec.encode(block, rows, 1, 'f32');
  codec.decode(rows, block, 1, 'f32');
  expect([...wordsAt(space, rows, 4)].map((word) => word >>> 0)).toEqual(words);
});

it('int8 is off by half a scale of its row at most, the scale a 127th of the largest', () => {
  fc.assert(
    fc.property(cases, ({ rows, hidden, reader, seed }) => {
      const writer = place(0, hidden);
      const target = place(reader, hidden);
      const values = random(rows * hidden, seed);
      floatsAt(space, writer.rows, values.length).set(values);
      writer.codec.encode(writer.block, writer.rows, rows, 'int8');
      target.codec.decode(target.rows, writer.block, rows, 'int8');
      const back = floatsAt(space, target.rows, rows * hidden);
      for (let row = 0; row < rows; row++) {
        const scale = scaleOf(values.slice(row * hidden, (row + 1) * hidden));
        const distances = Array.from({ length: hidden }, (_, at) => Math.abs((back[row * hidden + at] as number) - (values[row * hidden + at] as number)));
        expect(Math.max(...distances)).toBeLessThanOrEqual((scale / 2) * (1 + 2 ** -14));
      }
    }),
    { numRuns: runs(40) },
  );
});

it('an int8 row has a quarter of its f32 bytes and one scale, a bf16 row half', () => {
  expect(blockBytes('f32', 3, 64)).toBe(768);
  expect(blockBytes('bf16', 3, 64)).toBe(384);
  expect(blockBytes('int8', 3, 64)).toBe(208); // 3 × (64 + 4), padded to 16
});
