/** Dumps of SGLang's recorder, as torch.save writes them (sglang/make.py), and what is no such dump. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadsOf, readLoads, tableNamed } from '../../src/cli/loads-file.ts';
import { readTorch } from '../../src/cli/torch-file.ts';
import { readPickle } from '../../src/cli/torch-pickle.ts';
import { runs } from '../property-runs.ts';

const fileOf = (name: string): string => fileURLToPath(new URL(`./sglang/${name}.pt`, import.meta.url));
const windowsOf = (name: string): readonly (readonly (readonly number[])[])[] => tableNamed(readLoads(fileOf(name)).tables, fileOf(name), undefined).windows;

const FIRST = [
  [0, 0, 0, 0],
  [4, 5, 6, 7],
  [8, 9, 10, 11],
];
const SECOND = [
  [0, 0, 0, 0],
  [16, 17, 18, 19],
  [20, 21, 22, 23],
];

describe('a dump of SGLang’s recorder', () => {
  it('should be read in the modes stat and per_token, replicas counted as their experts', () => {
    expect(windowsOf('sglang-stat')).toEqual([FIRST, SECOND]);
    expect(windowsOf('sglang-sum')).toEqual([FIRST.map((row, layer) => row.map((count, expert) => count + (SECOND[layer]?.[expert] ?? 0)))]);
    expect(windowsOf('sglang-per-token')).toEqual([
      [
        [0, 0, 0, 0],
        [1, 3, 1, 1],
        [3, 1, 1, 1],
      ],
      [
        [0, 0, 0, 0],
        [0, 6, 0, 0],
        [0, 0, 3, 3],
      ],
    ]);
    expect(loadsOf(tableNamed(readLoads(fileOf('sglang-stat')).tables, '', undefined), '')).toMatchObject({ windows: 2, layers: 3, experts: 4 });
  });

  it('should not call what a pickle names, and say so', () => {
    expect(() => readLoads(fileOf('no-loads'))).toThrow(/no-loads\.pt: its pickle holds more than plain data and tensors/);
    const evil = Buffer.from('\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.', 'latin1');
    expect(() => readPickle(evil, () => expect.fail())).toThrow('its pickle would call os system, and nothing is called here');
    expect(Object.keys(readPickle(Buffer.from('\x80\x02}X\x09\x00\x00\x00__proto__K\x01s.', 'latin1'), () => expect.fail()) as object)).toEqual(['__proto__']);
    expect(({} as { polluted?: unknown }).polluted).toBe(undefined);
  });

  it('should be refused in words where it is cut off or damaged, whatever the damage', () => {
    const whole = readFileSync(fileOf('sglang-per-token'));
    fc.assert(
      fc.property(fc.nat({ max: whole.length }), fc.nat({ max: whole.length - 1 }), fc.nat({ max: 255 }), (length, at, byte) => {
        const bytes = Uint8Array.from(whole.subarray(0, length));
        bytes[at] = byte;
        try {
          readTorch(bytes, 'x.pt');
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid_request', message: expect.stringMatching(/^x\.pt: /) });
        }
      }),
      { numRuns: runs(300) },
    );
    expect(() => readTorch(whole.subarray(0, 1_000), 'x.pt')).toThrow('x.pt: it is a zip that is cut off or damaged');
  });
});
