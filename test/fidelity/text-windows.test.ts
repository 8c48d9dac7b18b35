import fc from 'fast-check';
import { expect, it } from 'vitest';
import { cutText } from '../../src/fidelity/text-windows.ts';
import { loadTokenizer } from '../../src/model/tokenizer.ts';
import { errorOf, TINY } from '../model/checkpoint-folder.ts';

const tokenizer = await loadTokenizer(TINY['tiny-deepseek-v3']);
const TEXT = 'Once upon a time there was a king who had three sons, and the youngest was called Dummling. '.repeat(8);
const all = tokenizer.encode(TEXT, { addSpecialTokens: false });

it('should score each token of the part exactly once, in its order, with bos before each window and stride tokens between two', () => {
  const shape = fc.record({
    window: fc.integer({ min: 3, max: 64 }),
    stride: fc.integer({ min: 1, max: 62 }),
    skip_tokens: fc.integer({ min: 0, max: 40 }),
    max_tokens: fc.integer({ min: 2, max: 200 }),
    hasBos: fc.boolean(),
  });
  fc.assert(
    fc.property(shape, ({ window, stride: wanted, skip_tokens, max_tokens, hasBos }) => {
      const head = hasBos ? 1 : 0;
      const stride = Math.min(wanted, window - 1);
      const bosTokenId = hasBos ? tokenizer.bosTokenId : null;
      const cut = cutText(TEXT, { ...tokenizer, bosTokenId }, 64, { window, stride, skip_tokens, max_tokens });
      const part = all.slice(skip_tokens, skip_tokens + max_tokens);
      expect(cut.windows.flatMap(({ ids, scored_from }) => ids.slice(scored_from))).toEqual(hasBos ? part : part.slice(1));
      cut.windows.forEach(({ ids, scored_from }, index) => {
        expect(ids.length).toBeLessThanOrEqual(window);
        expect(ids.slice(head)).toEqual(part.slice(index * stride, index * stride + window - head));
        if (hasBos) expect(ids[0]).toBe(bosTokenId);
        expect(scored_from).toBeGreaterThanOrEqual(1);
      });
      expect(cut.tokens).toBe(part.length - (1 - head));
    }),
  );
});

it('should count the bytes of what is scored as the text has them', () => {
  const text = 'Ein Märchen, 童話\n';
  expect(cutText(text, tokenizer, 64).bytes).toBe(Buffer.byteLength(text));
});

it('should refuse what cannot be cut, naming the option', () => {
  const faults = [
    [TEXT, { window: 65 }, 'window'],
    [TEXT, { window: 2 }, 'window'],
    [TEXT, { window: 32, stride: 32 }, 'stride'],
    ['', {}, 'text'],
    [TEXT, { skip_tokens: 100_000 }, 'text'],
  ] as const;
  for (const [text, part, param] of faults) expect(errorOf(() => cutText(text, tokenizer, 64, part))).toMatchObject({ code: 'invalid_request', param });
});
