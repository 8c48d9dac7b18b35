/** What is written here is what msgpackr would write of the same message. */
import fc from 'fast-check';
import { Packr, Unpackr } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { RecordWriter } from '../../src/protocol/record-writer.ts';
import { runs } from '../property-runs.ts';

/** As many as one byte names stand between those that are written here. */
const OTHERS = Array.from({ length: 29 }, (_, index) => [`other_${index}`]);
const STRUCTURES = [['a', 'b'], ['a'], ['b', 'a'], ...OTHERS, ['a', 'b', 'c'], ['z', 'nested', 'list', 'text']];
const structures = (): string[][] => STRUCTURES.map((keys) => [...keys]);
const writer = new RecordWriter(STRUCTURES);
const packr = new Packr({ structures: structures(), maxSharedStructures: STRUCTURES.length });
const unpackr = new Unpackr({ getStructures: structures });

const written = (message: unknown): Uint8Array => {
  const bytes = writer.write(message);
  expect(bytes).toBeGreaterThan(0);
  return new Uint8Array(writer.words.buffer, 0, bytes).slice();
};
/** Its bytes are msgpackr's, and msgpackr reads them. */
const expectSame = (message: unknown): void => {
  const bytes = written(message);
  // Told apart without the matcher, which takes minutes for megabytes.
  expect(Buffer.compare(bytes, packr.pack(message))).toBe(0);
  if (bytes.length < 1_000) expect(unpackr.unpack(bytes)).toEqual(message);
};

const text = fc.string({
  unit: fc.oneof(fc.constantFrom('a', 'é', '汉', '🙂', '\u0000', '\u007f', '\u0080'), fc.string({ minLength: 1, maxLength: 1 })),
  maxLength: 90,
});
const number = fc.oneof(
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(...[5, 6, 7, 8, 15, 16, 31, 32].flatMap((bits) => [2 ** bits - 1, 2 ** bits, -(2 ** bits), -(2 ** bits) - 1])),
  fc.double({ noNaN: true }).filter((value) => !Object.is(value, -0)),
);
const { message } = fc.letrec<{ message: unknown; value: unknown }>((tie) => ({
  value: fc.oneof({ maxDepth: 4 }, number, text, fc.boolean(), fc.constant(null), fc.constant(undefined), fc.array(tie('value')), tie('message')),
  message: fc.oneof(
    { maxDepth: 4 },
    ...STRUCTURES.map((keys) => fc.tuple(...keys.map(() => tie('value'))).map((values) => Object.fromEntries(keys.map((key, index) => [key, values[index]])))),
  ),
}));

describe('the writer of records', () => {
  it('writes any record as a map where none is declared, as msgpackr does without records', () => {
    const mapWriter = new RecordWriter([]);
    const mapPackr = new Packr({ useRecords: false });
    fc.assert(
      fc.property(message, fc.dictionary(text, number, { noNullPrototype: true }), (record, others) => {
        const bytes = mapWriter.write([record, others]);
        expect(Buffer.compare(new Uint8Array(mapWriter.words.buffer, 0, bytes), mapPackr.pack([record, others]))).toBe(0);
      }),
      { numRuns: runs(500) },
    );
    for (const unknown of [new Map(), { a: new Date() }, [1n], { a: new Uint8Array(2) }]) expect(mapWriter.write(unknown)).toBe(-1);
  });

  it('writes any declared message as msgpackr does', () => {
    fc.assert(fc.property(message, expectSame), { numRuns: runs(500) });
  });

  it('writes the same where objects under some keys come again, in other places and after it has grown', () => {
    const keeping = new RecordWriter([], ['a', 'nested']);
    const mapPackr = new Packr({ useRecords: false });
    fc.assert(
      fc.property(fc.array(message, { minLength: 1, maxLength: 4 }), fc.nat(3_000), (messages, length) => {
        for (const record of [messages, { list: messages, a: messages[0] }, { b: 'x'.repeat(length), nested: messages[0], c: messages }, messages]) {
          const bytes = keeping.write(record);
          expect(Buffer.compare(new Uint8Array(keeping.words.buffer, 0, bytes), mapPackr.pack(record))).toBe(0);
        }
      }),
      { numRuns: runs(300) },
    );
  });

  it('takes strings and arrays of any length', () => {
    for (const length of [0, 15, 16, 31, 32, 63, 64, 255, 256, 65_535, 65_536, 3_000_000]) {
      for (const letter of ['x', 'é', '🙂']) expectSame({ a: letter.repeat(length / letter.length) });
      if (length <= 100_000) expectSame({ a: Array.from({ length }, (_, index) => index * 1_000) });
    }
  });

  it('knows no other keys, no other order, no part of a record and no other kind of value; and goes on', () => {
    for (const unknown of [
      { c: 1 },
      { a: 1, c: 1 },
      { b: 1 },
      { a: 1, b: 1, c: 1, d: 1 },
      {},
      { a: { c: 1 } },
      [{ b: 1 }],
      { a: new Map([['a', 1]]) },
      { a: new Uint8Array(3) },
      { a: new Date() },
      { a: 1n },
      { a: () => 1 },
    ]) {
      expect(writer.write(unknown)).toBe(-1);
      expectSame({ b: 2, a: 1 });
    }
  });

  it('keeps the memory of no huge record for the rest of the run', () => {
    const huge = writer.write({ a: 'x'.repeat(2 ** 20), b: 1 });
    expect(writer.words.byteLength).toBeGreaterThan(huge);
    expectSame({ b: 2, a: 1 });
    expect(writer.words.byteLength).toBeLessThan(2 ** 16);
    // What is not so large is not made anew each time.
    writer.write({ a: 'x'.repeat(2 ** 16), b: 1 });
    const { words } = writer;
    writer.write({ b: 2, a: 1 });
    expect(writer.words).toBe(words);
  });
});
