import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readSafetensorsHeader } from '../../src/model/safetensors.ts';
import { runs } from '../property-runs.ts';
import { errorOf, safetensors, TINY, temporaryFolder } from './checkpoint-folder.ts';

function readBytes(bytes: Uint8Array) {
  const file = join(temporaryFolder(), 'weights.safetensors');
  writeFileSync(file, bytes);
  return readSafetensorsHeader(file);
}

const entry = (dtype: string, shape: unknown, begin: number, end: number) => ({ dtype, shape, data_offsets: [begin, end] });
const valid = { __metadata__: { format: 'pt', a: 'b' }, a: entry('BF16', [2, 3], 0, 12), b: entry('F32', [], 12, 16), none: entry('F16', [0, 4], 16, 16) };

describe('readSafetensorsHeader', () => {
  it('should give each tensor its place in the file', () => {
    const tensors = readBytes(safetensors(valid, new Uint8Array(16)));
    const dataStart = 8 + JSON.stringify(valid).length;
    expect([...tensors.keys()]).toEqual(['a', 'b', 'none']);
    expect(tensors.get('a')).toMatchObject({ dtype: 'BF16', shape: [2, 3], offset: dataStart, bytes: 12 });
    expect(tensors.get('b')).toMatchObject({ dtype: 'F32', shape: [], offset: dataStart + 12, bytes: 4 });
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['an empty file', new Uint8Array(0), /is 0 bytes long/],
    ['a file shorter than its length field', new Uint8Array(7), /is 7 bytes long/],
    ['a header longer than the file', new Uint8Array(8).fill(255), /header length 18446744073709551615 is larger than the file/],
    ['no JSON', safetensors('{"a":'), /header is not JSON/],
    ['no UTF-8', safetensors({}, new Uint8Array(0)).fill(0xff, 8), /header is not JSON/],
    ['no object', safetensors([1]), /header is not a JSON object/],
    ['an entry that is no object', safetensors({ a: 3 }), /tensor a: expected an object with dtype, shape and data_offsets, found 3/],
    [
      'an unsupported dtype',
      safetensors({ a: entry('F8_E4M3', [4], 0, 4) }, new Uint8Array(4)),
      /tensor a: expected dtype BF16, F16, F32 or I8, found "F8_E4M3"/,
    ],
    ['a dtype from the prototype', safetensors({ a: entry('toString', [4], 0, 4) }, new Uint8Array(4)), /tensor a: expected dtype/],
    ['a negative size', safetensors({ a: entry('F32', [-1], 0, 4) }, new Uint8Array(4)), /tensor a: expected a shape/],
    ['a fraction as size', safetensors({ a: entry('F32', [1.5], 0, 6) }, new Uint8Array(6)), /tensor a: expected a shape/],
    ['offsets in reverse', safetensors({ a: entry('F32', [1], 4, 0) }, new Uint8Array(4)), /tensor a: data_offsets \[4,0\] lie outside/],
    ['offsets out of range', safetensors({ a: entry('F32', [2], 0, 8) }, new Uint8Array(4)), /tensor a: data_offsets \[0,8\] lie outside the 4 bytes/],
    ['a shape that overflows', safetensors({ a: entry('F32', [2 ** 52, 2 ** 52], 0, 4) }, new Uint8Array(4)), /tensor a: shape .* takes .* bytes/],
    ['a shape of another length', safetensors({ a: entry('F32', [2], 0, 4) }, new Uint8Array(4)), /shape \[2\] of F32 takes 8 bytes, data_offsets span 4/],
    ['an overlap', safetensors({ a: entry('F32', [2], 0, 8), b: entry('F32', [1], 4, 8) }, new Uint8Array(8)), /tensor b overlaps/],
    ['a gap', safetensors({ a: entry('F32', [1], 4, 8) }, new Uint8Array(8)), /before tensor a, belong to no tensor/],
    ['bytes at the end', safetensors({ a: entry('F32', [1], 0, 4) }, new Uint8Array(8)), /the last tensor ends at byte/],
    [
      'a tensor twice',
      safetensors('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "\\u0061" : {"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
      /tensor a appears twice/,
    ],
  ])('should refuse %s', (_, bytes, message) => {
    const error = errorOf(() => readBytes(bytes));
    expect(error.code).toBe('invalid_checkpoint');
    expect(error.message).toMatch(/weights\.safetensors: /);
    expect(error.message).toMatch(message);
  });

  it('should name a file that is not there', () => {
    expect(errorOf(() => readSafetensorsHeader('/nowhere/x.safetensors')).message).toMatch(/^\/nowhere\/x\.safetensors: cannot be opened/);
  });

  it('should refuse every truncated file and survive every flipped bit of a header', () => {
    const original = readFileSync(join(TINY['tiny-kimi-k2'], 'model.safetensors'));
    const headerEnd = 8 + Number(new DataView(original.buffer, original.byteOffset).getBigUint64(0, true));
    // Few tensors keep the search on their entries.
    const small = safetensors(valid, new Uint8Array(16));
    const file = join(temporaryFolder(), 'weights.safetensors');
    const read = (bytes: Uint8Array) => {
      writeFileSync(file, bytes);
      return readSafetensorsHeader(file);
    };
    fc.assert(
      fc.property(fc.integer({ min: 0, max: headerEnd }), (length) => {
        const error = errorOf(() => read(original.subarray(0, length)));
        expect(error.message).toContain(file);
      }),
      { numRuns: runs(50) },
    );
    fc.assert(
      fc.property(fc.nat(small.byteLength * 8 - 1), fc.nat(7), (at, bit) => {
        const corrupt = small.slice();
        const byte = at % small.byteLength;
        corrupt[byte] = (corrupt[byte] ?? 0) ^ (1 << bit);
        try {
          read(corrupt);
        } catch (error) {
          expect(error).toMatchObject({ name: 'MinipodError', code: 'invalid_checkpoint', message: expect.stringContaining(file) });
        }
      }),
      { numRuns: runs(500) },
    );
  });

  it('should answer any JSON as header with tensors or an error of its own', () => {
    const file = join(temporaryFolder(), 'weights.safetensors');
    const anyEntry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom('BF16', 'F16', 'F32', 'I8'), fc.jsonValue()),
        shape: fc.oneof(fc.array(fc.nat(4)), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(fc.nat(64), fc.nat(64)), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.oneof(anyEntry, fc.jsonValue())), fc.uint8Array({ maxLength: 64 }), (header, data) => {
        writeFileSync(file, safetensors(header, data));
        try {
          readSafetensorsHeader(file);
        } catch (error) {
          expect(error).toMatchObject({ name: 'MinipodError', code: 'invalid_checkpoint', message: expect.stringContaining(file) });
        }
      }),
      { numRuns: runs(300) },
    );
  });
});
