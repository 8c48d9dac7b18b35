/** The output process of a DP group: what it shows of a choice is a function of the choice's ids, whichever groups have computed them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { allocateSegments, planMemory } from '../../../src/fabric/memory-plan.ts';
import { OutputProcess } from '../../../src/flowserve/frontend/output-process.ts';
import type { ReplyParserOptions } from '../../../src/flowserve/frontend/parsers/reply-parser.ts';
import { loadTokenizer } from '../../../src/model/tokenizer.ts';
import { packVocabulary, sharedVocabulary, type Vocabulary } from '../../../src/model/vocabulary.ts';
import type { Address } from '../../../src/protocol/address.ts';
import type { ChunkRecord, OutputToCaller } from '../../../src/protocol/caller.ts';
import { forget, PLAIN_TEXT, tokens } from '../../../src/protocol/constructors.ts';
import type { Message, Stage } from '../../../src/protocol/messages.ts';
import type { Begun, TextTerms, TokenOut } from '../../../src/protocol/output.ts';
import { greedySequence } from '../../golden/greedy.ts';
import { TINY } from '../../model/checkpoint-folder.ts';
import { runs } from '../../property-runs.ts';
import { joined, parse } from './parsers/parse.ts';

const tokenizer = await loadTokenizer(TINY['tiny-deepseek-v3']);
const EOS = 1;

function shared(): Vocabulary {
  const packed = packVocabulary(tokenizer);
  const plan = planMemory([{ owner: 'pod', kind: 'vocabulary', bytes: packed.length }], 2 ** 28, 2 ** 28);
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  const region = space.region('pod', 'vocabulary');
  space.bytesAt(region.base, packed.length).set(packed);
  return sharedVocabulary(space, region);
}
const vocabulary = shared();

type Sent = { readonly to: Address; readonly message: Message };

function group(id: number) {
  const chunks: ChunkRecord[] = [];
  const sent: Sent[] = [];
  const failed: OutputToCaller[] = [];
  const output = new OutputProcess(`output/${id}`, vocabulary, [EOS], {
    show: (message) => (message.type === 'CHUNKS' ? chunks.push(...message.chunks) : failed.push(message)),
    send: (to, message) => sent.push({ to, message }),
    tells_prompts: id === 0,
  });
  return { output, chunks, sent, failed };
}

type Terms = Pick<TextTerms, 'stop' | 'skip_special_tokens' | 'reasoning_parser' | 'tool_call_parser'> & { readonly min_tokens: number };
const begunWith = ({ min_tokens, ...text }: Terms, output: readonly number[], stage: Stage = 'whole'): Begun => {
  const sequence = greedySequence(3, [], 99);
  return { sequence: { ...sequence, sampling: { ...sequence.sampling, min_tokens }, text: { ...PLAIN_TEXT, ...text } }, stage, output };
};
const out = (index: number, token: number, finish: TokenOut['finish'] = null): TokenOut => ({
  ...{ request: 3, choice: 0, index, token, finish, stops: finish === 'stop', logprobs: null, cached: 0, drafted: 0, prompt_start: 1, prompt_logprobs: null },
});

const terms: fc.Arbitrary<Terms> = fc.record({
  stop: fc.constantFrom([], ['e'], ['the wolf', ' a'], ['é', 'ab']),
  min_tokens: fc.nat(4),
  skip_special_tokens: fc.boolean(),
  reasoning_parser: fc.constantFrom('', 'qwen3'),
  tool_call_parser: fc.constantFrom('', 'hermes'),
});
const ids = fc
  .tuple(
    fc.constantFrom('Once upon a time the wolf', 'é🙂é', 'abab e', '', '<think>a b</think>c', 'x<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'),
    fc.array(fc.nat(2_047), { maxLength: 8 }),
  )
  .map(([text, noise]) => [...tokenizer.encode(text, { addSpecialTokens: true }), ...noise, 5]);

describe('a vocabulary in shared memory', () => {
  it('should be the tokenizer’s', () => {
    expect(vocabulary.specialTokenIds).toEqual(tokenizer.specialTokenIds);
    for (let id = -1; id < tokenizer.vocabSize + 3; id++) {
      expect([...vocabulary.tokenBytes(id)]).toEqual([...tokenizer.tokenBytes(id)]);
      expect(vocabulary.tokenText(id)).toBe(tokenizer.tokenText(id));
    }
  });
});

describe('an output process', () => {
  it('should go on from the ids alone, as if it had shown all of them; and tell its scheduler of a stop string once', () => {
    fc.assert(
      fc.property(ids, terms, fc.nat(40), (all, how, at) => {
        const last = all.length - 1;
        const of = (from: number, to: number): TokenOut[] =>
          all.slice(from, to).map((token, index) => out(from + index, token, from + index === last ? 'length' : null));
        const whole = group(0);
        whole.output.receive(tokens(of(0, all.length), [begunWith(how, [])]), 1);
        const cut = at % all.length;
        const [first, second] = [group(0), group(1)];
        if (cut > 0) first.output.receive(tokens(of(0, cut), [begunWith(how, [])]), 1);
        const isOver = first.chunks.some(({ finish }) => finish !== null);
        if (!isOver) second.output.receive(tokens(of(cut, all.length), [begunWith(how, all.slice(0, cut))]), 1);
        expect([...first.chunks, ...second.chunks]).toEqual(whole.chunks);
        expect(whole.chunks.map(({ index }) => index)).toEqual(whole.chunks.map((_, index) => index));
        const finishes = whole.chunks.filter(({ finish }) => finish !== null);
        expect(finishes).toEqual([whole.chunks.at(-1)]);
        const stopped = whole.chunks.length < all.length;
        const stops = whole.sent.filter(({ message }) => message.type === 'STOP_FOUND');
        expect(stops).toEqual(stopped ? [{ to: 'dp-group/0', message: { type: 'STOP_FOUND', task: 'task/384' } }] : []);
        expect(whole.output.open).toBe(0);
        const text = whole.chunks.map((chunk) => chunk.text).join('');
        const { reasoning_parser, tool_call_parser } = how;
        const parsed = whole.chunks.flatMap((chunk) => chunk.parsed?.parts ?? []);
        const named = {
          ...(reasoning_parser === '' ? {} : { reasoning_parser }),
          ...(tool_call_parser === '' ? {} : { tool_call_parser }),
        } as ReplyParserOptions;
        expect(joined(parsed)).toEqual(joined(Object.keys(named).length === 0 ? [] : parse(named, text)));
        if (finishes[0]?.stop_string === null) expect(text).toBe(tokenizer.decode(all, { skipSpecialTokens: how.skip_special_tokens }));
      }),
      { numRuns: runs(300) },
    );
  });

  it('should tell the job of a stop string in prefill’s token, since the choice goes on elsewhere; keep nothing of it; and tell who has computed a prompt', () => {
    const how = { ...PLAIN_TEXT, stop: ['the'], min_tokens: 0 };
    const [the] = tokenizer.encode('the', { addSpecialTokens: false });
    const { output, sent, chunks } = group(0);
    output.receive(tokens([out(0, the as number)], [begunWith(how, [], 'prefill')]), 1);
    expect(chunks).toMatchObject([{ text: '', finish: 'stop', stop_string: 'the' }]);
    expect(sent).toEqual([
      { to: 'frontend/0', message: { type: 'PROMPT_COMPUTED', request: 'request/3' } },
      { to: 'job/3', message: { type: 'CHOICE_STOPPED', choice: 0 } },
    ]);
    expect(output.open).toBe(0);
  });

  it.each([
    ['at a token', '[null]', []],
    ['as it begins', 'no JSON', []],
    ['in what another group has shown', '[null]', tokenizer.encode('<function=f>', { addSpecialTokens: false })],
  ])('should fail the request alone whose text cannot be parsed: %s', (_, tools, before) => {
    const { output, chunks, failed } = group(0);
    const poisoned = begunWith({ ...PLAIN_TEXT, tool_call_parser: 'qwen3_coder', min_tokens: 0 }, before);
    const poison = { ...poisoned, sequence: { ...poisoned.sequence, text: { ...poisoned.sequence.text, tools } } };
    const bystander = begunWith({ ...PLAIN_TEXT, min_tokens: 0 }, before);
    const ids = tokenizer.encode('<function=f><parameter=a>1</parameter></function>', { addSpecialTokens: false });
    const said = ids.slice(before.length).flatMap((token, at) => {
      const one = out(before.length + at, token);
      return [one, { ...one, request: 4 }];
    });
    output.receive(tokens(said, [poison, { ...bystander, sequence: { ...bystander.sequence, request: 4 } }]), 1);
    expect(failed).toMatchObject([{ type: 'TEXT_FAILED', request: 3, error: { code: 'internal', message: expect.stringContaining('could not be parsed: ') } }]);
    expect(chunks.filter(({ request }) => request === 4)).toHaveLength(ids.length - before.length);
    expect(chunks.filter(({ request }) => request === 3).length).toBeLessThan(ids.length - before.length);
    expect(output.open).toBe(1);
  });

  it('should show nothing of a choice that it was told to forget', () => {
    const { output, chunks } = group(0);
    const how = { ...PLAIN_TEXT, min_tokens: 0 };
    output.receive(tokens([out(0, 5)], [begunWith(how, [])]), 1);
    output.receive(forget(3, 0), 2);
    expect([output.open, chunks.length]).toEqual([0, 1]);
    output.receive(tokens([out(1, 6)]), 3);
    expect(chunks).toHaveLength(1);
  });
});
