import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Detokenizer } from '../../src/model/detokenizer.ts';
import { loadTokenizer } from '../../src/model/tokenizer.ts';
import { runs } from '../property-runs.ts';
import { TINY } from './checkpoint-folder.ts';

const tokenizer = await loadTokenizer(TINY['tiny-deepseek-v3']);
/** Single bytes are the tokens 7 … 262: weighting them makes broken characters common. */
const id = fc.oneof(fc.integer({ min: 0, max: 2047 }), fc.integer({ min: 7, max: 262 }));
const broken = fc.array(id, { maxLength: 40 });
const written = fc.string({ unit: 'binary', maxLength: 20 }).map((text) => tokenizer.encode(text, { addSpecialTokens: true }));

describe('Detokenizer', () => {
  it('should yield, pushed and flushed together, what decoding all ids at once gives', () => {
    fc.assert(
      fc.property(fc.oneof(broken, written), (ids) => {
        const detokenizer = new Detokenizer(tokenizer);
        const text = ids.map((each) => detokenizer.push(each)).join('') + detokenizer.flush();
        expect(text).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
      }),
      { numRuns: runs(2000) },
    );
  });

  it('should never give half a character', () => {
    const ids = tokenizer.encode('a🙂é', { addSpecialTokens: false });
    expect(ids.length).toBe(7);
    const detokenizer = new Detokenizer(tokenizer);
    expect(ids.map((each) => detokenizer.push(each))).toEqual(['a', '', '', '', '🙂', '', 'é']);
    expect(detokenizer.flush()).toBe('');
  });

  it('should skip special tokens, even within a character', () => {
    const [first = 0, second = 0] = tokenizer.encode('é', { addSpecialTokens: false });
    const detokenizer = new Detokenizer(tokenizer);
    expect([first, 6, second].map((each) => detokenizer.push(each))).toEqual(['', '', 'é']);
  });

  it('should keep a byte order mark, wherever it stands', () => {
    const ids = tokenizer.encode('\ufeffa\ufeff', { addSpecialTokens: false });
    const detokenizer = new Detokenizer(tokenizer);
    expect(ids.map((each) => detokenizer.push(each)).join('')).toBe('\ufeffa\ufeff');
  });
});
