/** Marks of prompts' prefixes: of what they are made, and who probably holds what they stand for. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MARK_TOKENS, PrefixMarks, prefixMarks } from '../../actors/policies/prefix-marks.ts';

describe('marks of a prompt', () => {
  it('should be of whole runs of tokens alone, and the first ones of whatever goes on from it', () => {
    const tokens = fc.array(fc.nat(200_000), { maxLength: 5 * MARK_TOKENS, size: 'max' });
    fc.assert(
      fc.property(tokens, tokens, (prompt, more) => {
        const marks = prefixMarks('tenant', prompt);
        expect(marks).toHaveLength(Math.floor(prompt.length / MARK_TOKENS));
        expect(prefixMarks('tenant', [...prompt, ...more]).slice(0, marks.length)).toEqual(marks);
      }),
    );
    expect(prefixMarks('', new Array<number>(MARK_TOKENS - 1).fill(7))).toEqual([]);
  });

  it('should name the group that holds the most of a prompt, of those alike the last, and none where nobody holds any', () => {
    const held = new PrefixMarks(100);
    held.add(4, [1]);
    held.add(5, [1, 2]);
    held.add(6, [1, 2]);
    held.add(7, [2, 3]);
    expect(held.holderOf([1, 2, 3])).toEqual({ group: 6, tokens: 2 * MARK_TOKENS });
    held.forget(6);
    expect(held.holderOf([1, 2, 3])).toEqual({ group: 5, tokens: 2 * MARK_TOKENS });
    expect([held.holderOf([9, 1]), held.holderOf([])]).toEqual([null, null]);
  });
});
