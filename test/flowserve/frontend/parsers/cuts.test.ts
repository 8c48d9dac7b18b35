import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { REASONING_PARSERS, TOOL_CALL_PARSERS } from '../../../../src/flowserve/frontend/parsers/formats.ts';
import { ReplyParser, type ReplyParserOptions } from '../../../../src/flowserve/frontend/parsers/reply-parser.ts';
import { StopStrings } from '../../../../src/flowserve/frontend/stop-strings.ts';
import { Detokenizer } from '../../../../src/model/detokenizer.ts';
import { loadTokenizer } from '../../../../src/model/tokenizer.ts';
import { TINY } from '../../../model/checkpoint-folder.ts';
import { ownTime_ms } from '../../../own-time.ts';
import { runs } from '../../../property-runs.ts';
import { inOrder, joined, parse } from './parse.ts';

/** What replies are made of, well-formed and not: marks, their beginnings, JSON, and letters that need two UTF-16 units or three bytes. */
const PIECES = [
  ...[
    '<function=',
    '<function=f>',
    '</function>',
    '<parameter=',
    '<parameter=a>',
    '</parameter>',
    '>',
    '<function=f>\n<parameter=a>\n1\n</parameter>\n</function>',
  ],
  ...['<think>', '</think>', '<', '</', '<tool_call>', '</tool_call>', '{"name": "f", "arguments": ', '{"arguments": {"a": 1}, "name": "g"}', '{"name": "h"}'],
  ...['{"a": "b}"}', '{', '}', '"', '\\', ', ', 'null', '12', ' ', '\n', '\n\n', 'Hello', '🙂', 'é', '`', '```', '```json', '\n```json\n', '\n```'],
  ...[
    '<｜tool▁calls▁begin｜>',
    '<｜tool▁calls▁end｜>',
    '<｜tool▁call▁begin｜>',
    '<｜tool▁call▁end｜>',
    '<｜tool▁sep｜>',
    'function',
    'get_weather',
    '<｜tool▁call',
  ],
  ...['<|tool_calls_section_begin|>', '<|tool_calls_section_end|>', '<|tool_call_begin|>', '<|tool_call_end|>', '<|tool_call_argument_begin|>'],
  ...['functions.get_weather:0', '<|tool_call', '<tool_call>\n{"name": "f", "arguments": {"x": [1]}}\n</tool_call>'],
  '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"x": 1}\n```<｜tool▁call▁end｜>',
  '<|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>',
];
const reply = fc
  .array(fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...PIECES) }, fc.string({ maxLength: 4 })), { maxLength: 14 })
  .map((all) => all.join(''));
const options: fc.Arbitrary<ReplyParserOptions> = fc.record({
  reasoning_parser: fc.constantFrom(undefined, ...REASONING_PARSERS),
  tool_call_parser: fc.constantFrom(undefined, ...TOOL_CALL_PARSERS),
  prompt_tail: fc.constantFrom('', '<think>\n', '<think>\n\n</think>\n\n'),
});

/** A text in pieces, by cuts of it. */
function pieces(text: string, cuts: readonly number[]): string[] {
  const at = [...new Set([0, ...cuts.map((cut) => cut % (text.length + 1)), text.length])].sort((a, b) => a - b);
  return at.slice(1).map((end, index) => text.slice(at[index], end));
}

describe('ReplyParser', () => {
  it('should give the same parts however the text is cut', () => {
    fc.assert(
      fc.property(reply, fc.array(fc.nat(400), { maxLength: 12 }), options, (text, cuts, how) => {
        const whole = inOrder(parse(how, text));
        expect(inOrder(parse(how, ...pieces(text, cuts)))).toEqual(whole);
        expect(inOrder(parse(how, ...text.split('')))).toEqual(whole);
      }),
      { numRuns: runs(1000) },
    );
  });

  it('should have said, after any beginning of a text, what the beginning alone makes it say', () => {
    fc.assert(
      fc.property(reply, fc.nat(400), fc.array(fc.nat(400), { maxLength: 6 }), options, (text, at, cuts, how) => {
        const begun = text.slice(0, at % (text.length + 1));
        const parser = new ReplyParser(how);
        const said = pieces(begun, cuts).flatMap((piece) => parser.push(piece));
        const resumed = new ReplyParser(how);
        expect(inOrder(resumed.push(begun))).toEqual(inOrder(said));
        const rest = text.slice(begun.length);
        expect([...resumed.push(rest), ...resumed.end()]).toEqual([...parser.push(rest), ...parser.end()]);
      }),
      { numRuns: runs(800) },
    );
  });

  it('should go on from the ids alone: the first from prefill, the others from decode, whichever frontend has them', async () => {
    const tokenizer = await loadTokenizer(TINY['tiny-deepseek-v3']);
    fc.assert(
      fc.property(reply, fc.array(fc.integer({ min: 0, max: 2047 }), { maxLength: 3 }), fc.nat(200), options, (text, noise, at, how) => {
        const ids = [...tokenizer.encode(text, { addSpecialTokens: false }), ...noise];
        const cut = at % (ids.length + 1);
        const chain = (idsSoFar: readonly number[]) => {
          const detokenizer = new Detokenizer(tokenizer, { skipSpecialTokens: false });
          const stops = new StopStrings(['Hello Hello']);
          const parser = new ReplyParser(how);
          const push = (id: number) => parser.push(stops.push(detokenizer.push(id)).text);
          return { push, said: inOrder(idsSoFar.flatMap(push)), end: () => [...parser.push(detokenizer.flush() + stops.flush()), ...parser.end()] };
        };
        const first = chain(ids.slice(0, cut));
        const successor = chain(ids.slice(0, cut));
        expect(successor.said).toEqual(first.said);
        expect([...ids.slice(cut).flatMap(successor.push), ...successor.end()]).toEqual([...ids.slice(cut).flatMap(first.push), ...first.end()]);
      }),
      { numRuns: runs(150) },
    );
  });

  it.each([
    ['all of them after the mark', ['<think>', 'I', ' look', '</think>', 'Yes'], 2],
    ['what was held back and is no mark', ['<th', 'e', ' a <', ' b'], 4],
    ['none of a mark in pieces', ['<thi', 'nk>', 'I', '</', 'thin', 'k>', 'Yes'], 1],
    ['white space before the first word, and not before the mark', ['\n', 'I', '</think>'], 2],
    ['white space before the mark as none', ['\n', '<think>', 'I', '</think>'], 1],
    ['what is held back at the end', ['I', '</th'], 2],
    ['a token without a character of its own with the next one', ['<think>', '', '🙂', '', '</think>', ''], 2],
    ['none where there is only an answer', ['<think>\n\n</think>', 'Yes'], 0],
  ])('should count tokens of reasoning: %s', (_, tokens, expected) => {
    const parser = new ReplyParser({ reasoning_parser: 'deepseek_r1' });
    for (const token of tokens) parser.push(token);
    parser.end();
    expect(parser.takeReasoningTokens()).toBe(expected);
  });

  it('should count as many of them as there are characters of reasoning, where each is a token', () => {
    fc.assert(
      fc.property(reply, options, (text, how) => {
        const parser = new ReplyParser(how);
        const parts = [...text.split('').flatMap((character) => parser.push(character)), ...parser.end()];
        expect(parser.takeReasoningTokens()).toBe(joined(parts).reasoning.length);
      }),
      { numRuns: runs(300) },
    );
  });

  it('should lose no letter but those of marks, and white space beside them', () => {
    const letters = (text: string) => text.replace(/[^\p{L}🙂]/gu, '');
    fc.assert(
      fc.property(reply, options, (text, how) => {
        const { reasoning, content, calls } = joined(parse(how, text));
        if (how.tool_call_parser === undefined && how.reasoning_parser === undefined) expect(content).toBe(text);
        const shown = letters(reasoning + content + calls.map((call) => call.name + call.arguments).join(''));
        // Without calls there is nothing to put in order: all but the first marks of the reasoning is there, letter for letter.
        if (calls.length === 0)
          expect([
            letters(text),
            letters(text.replace('<think>', '')),
            letters(text.replace('</think>', '')),
            letters(text.replace('<think>', '').replace('</think>', '')),
          ]).toContain(shown);
      }),
      { numRuns: runs(800) },
    );
  });

  it('should keep up with a model that repeats itself', () => {
    // Each would take minutes if a step looked at all that is held.
    const endless = ['x', ' ', '`', '"', '\\', '<', '{', '<think>', '<tool_call>', '<function=f>', '{"name": "', '<｜tool▁call▁begin｜>'];
    for (const tool_call_parser of ['hermes', 'deepseek_v3', 'qwen3_coder'] as const) {
      for (const unit of endless) {
        for (const begin of ['', '</think>', '</think><tool_call>', '</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>']) {
          const parser = new ReplyParser({ reasoning_parser: 'qwen3', tool_call_parser });
          const started_ms = ownTime_ms();
          parser.push(begin + unit.repeat(12_000 / unit.length));
          parser.end();
          expect(ownTime_ms() - started_ms, `${tool_call_parser} ${begin}${unit}…`).toBeLessThan(1_000);
        }
      }
    }
  });
});
