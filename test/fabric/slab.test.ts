/** A slab holds payloads in pieces, one after the other, and knows to the byte what is taken. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SlabReader, SlabWriter, slabPayloadBytesMax } from '../../src/fabric/slab.ts';
import { runs } from '../property-runs.ts';

const CAPACITY = 1_024;
const AT = 4_096;
const makeWords = (): Int32Array => new Int32Array(new SharedArrayBuffer(8_192));
const roundUp8 = (bytes: number): number => Math.ceil(bytes / 8) * 8;

describe('a slab', () => {
  it('gives out places that do not overlap, in one piece, and counts what is taken to the byte', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ act: fc.constant('claim' as const), bytes: fc.integer({ min: 1, max: slabPayloadBytesMax(CAPACITY) }) }) },
      { weight: 2, arbitrary: fc.record({ act: fc.constantFrom('take' as const, 'release' as const), bytes: fc.constant(0) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), fc.integer({ min: -50, max: 50 }), (steps, start) => {
        const words = makeWords();
        words[0] = (0x7fff_fff8 + start * 8) | 0;
        const [writer, reader] = [new SlabWriter(words, 0, AT, CAPACITY), new SlabReader(words, 0, AT, CAPACITY)];
        const written: { at: number; bytes: number; taken: number }[] = [];
        const read: typeof written = [];
        let most = 0;
        const taken = (): number => [...written, ...read].reduce((sum, payload) => sum + payload.taken, 0);
        for (const { act, bytes } of steps) {
          if (act === 'claim') {
            const at = writer.claim(bytes);
            if (at < 0) {
              // It would have overlapped what is taken, or be cut in two.
              expect(taken() + roundUp8(bytes)).toBeGreaterThan(CAPACITY - roundUp8(bytes));
              continue;
            }
            expect(at % 8).toBe(0);
            expect(at + bytes).toBeLessThanOrEqual(CAPACITY);
            for (const other of [...written, ...read]) expect(at + bytes <= other.at || other.at + other.bytes <= at).toBe(true);
            written.push({ at, bytes, taken: writer.commit(bytes) });
            most = Math.max(most, taken());
          } else if (act === 'take') {
            const payload = written.shift();
            if (payload === undefined) continue;
            reader.take(payload.at, payload.bytes, payload.taken);
            read.push(payload);
          } else {
            reader.release();
            read.length = 0;
          }
          expect([writer.bytes, writer.bytes_max]).toEqual([taken(), most]);
        }
        for (const payload of written) reader.take(payload.at, payload.bytes, payload.taken);
        reader.release();
        expect(writer.bytes).toBe(0);
      }),
      { numRuns: runs(200) },
    );
  });

  it('takes a payload of half its size wherever its indices stand, once it is empty', () => {
    for (let start = 0; start < CAPACITY; start += 8) {
      const words = makeWords();
      words[0] = start;
      expect(new SlabWriter(words, 0, AT, CAPACITY).claim(slabPayloadBytesMax(CAPACITY))).toBeGreaterThanOrEqual(0);
    }
  });

  it('refuses a payload that does not lie where the last one ended', () => {
    const words = makeWords();
    const reader = new SlabReader(words, 0, AT, CAPACITY);
    for (const [at, bytes, taken] of [
      [8, 8, 8],
      [0, 16, 8],
      [0, 8, 16],
      [0, 513, 520],
      [-8, 8, 8],
      [0, 8, -8],
    ] as const)
      expect(() => reader.take(at, bytes, taken)).toThrow(/the ring is corrupt/);
    reader.take(0, 8, 8);
    expect(() => reader.take(0, 8, 8)).toThrow(/the ring is corrupt/);
    expect(() => new SlabWriter(words, 0, AT, 1_000)).toThrow(/power of two/);
  });
});
