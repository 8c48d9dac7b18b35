import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer.ts';
import { ownTime_ms } from '../own-time.ts';
import { runs } from '../property-runs.ts';
import { copyWithoutWeights, errorOf, goldens, readJson, TINY, TINY_NAMES, writeJson } from './checkpoint-folder.ts';

const tokenizer = await loadTokenizer(TINY['tiny-deepseek-v3']);
const bos = { addSpecialTokens: true };
const bare = { addSpecialTokens: false };

/** Loads the tiny tokenizer with some fields changed. */
async function loadChanged({ json = {}, config = {} }: { json?: Record<string, unknown>; config?: Record<string, unknown> }): Promise<Tokenizer> {
  const folder = copyWithoutWeights('tiny-deepseek-v3');
  writeJson({ ...readJson(folder, 'tokenizer.json'), ...json }, folder, 'tokenizer.json');
  writeJson({ ...readJson(folder, 'tokenizer_config.json'), ...config }, folder, 'tokenizer_config.json');
  return loadTokenizer(folder);
}

describe.each(TINY_NAMES)('the tokenizer of %s', (name) => {
  it('should encode every golden text and conversation as the reference does, and decode what it generated', async () => {
    const own = await loadTokenizer(TINY[name]);
    for (const { text, user, token_ids, greedy_ids, greedy_text } of goldens()[name].cases) {
      if (text !== undefined) expect(own.encode(text, bos)).toEqual(token_ids);
      if (user !== undefined)
        expect(own.encode(own.renderChatTemplate([{ role: 'user', content: user }], { addGenerationPrompt: true }), { addSpecialTokens: false })).toEqual(
          token_ids,
        );
      expect(own.decode(greedy_ids, { skipSpecialTokens: true })).toBe(greedy_text);
    }
  });
});

describe('encode', () => {
  it('should give back, decoded, any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const specials = /<\|\w+\|>/.test(text);
        const roundTrip = tokenizer.decode(tokenizer.encode(text, bos), { skipSpecialTokens: true });
        if (!specials) expect(roundTrip).toBe(text);
      }),
      { numRuns: runs(300) },
    );
  });

  it('should put bos before a text once', async () => {
    expect(tokenizer.encode('', bos)).toEqual([1]);
    expect(tokenizer.encode('', bare)).toEqual([]);
    expect(tokenizer.encode('a', bos)).toEqual([1, 104]);
    expect(tokenizer.encode('a', bare)).toEqual([104]);
    expect(tokenizer.encode('<|bos|>a', bos)).toEqual([1, 104]);
    const add = {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<|bos|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: {},
    };
    expect((await loadChanged({ json: { post_processor: add } })).encode('a', bos)).toEqual([1, 104]);
  });

  it('should leave bos out where the config says so or names none', async () => {
    expect((await loadChanged({ config: { add_bos_token: false } })).encode('a', bos)).toEqual([104]);
    const none = await loadChanged({ config: { bos_token: null } });
    expect(none.bosTokenId).toBe(null);
    expect(none.encode('a', bos)).toEqual([104]);
    expect((await loadChanged({ config: { bos_token: { content: '<|bos|>' } } })).bosTokenId).toBe(1);
  });

  it('should parse special tokens that a text spells out', () => {
    expect(tokenizer.encode('a<|end|>a', bare)).toEqual([104, 6, 104]);
  });

  it('should normalise to NFC where the tokenizer does, but not across special tokens', async () => {
    const nfc = await loadChanged({ json: { normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }] } } });
    expect(nfc.encode('e\u0301', bare)).toEqual(tokenizer.encode('é', bare));
    expect(nfc.encode('<|end|>\u0338', bare)).toEqual([6, ...tokenizer.encode('\u0338', bare)]);
  });
});

describe('tokens', () => {
  it('should have exact bytes', () => {
    expect([...tokenizer.tokenBytes(7 + 0)]).toEqual([0]);
    expect([...tokenizer.tokenBytes(39)]).toEqual([32]);
    expect([...tokenizer.tokenBytes(104)]).toEqual([97]);
    expect(new TextDecoder().decode(tokenizer.tokenBytes(6))).toBe('<|end|>');
    expect(tokenizer.tokenBytes(5000).byteLength).toBe(0);
    expect(tokenizer.tokenBytes(-1).byteLength).toBe(0);
  });
  it('should have a text, U+FFFD for part of a character', () => {
    expect(tokenizer.tokenText(39)).toBe(' ');
    const [first = 0] = tokenizer.encode('é', bare);
    expect(tokenizer.tokenText(first)).toBe('\ufffd');
  });
  it('should be known by number', () => {
    expect(tokenizer.vocabSize).toBe(2048);
    expect([...tokenizer.specialTokenIds]).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(tokenizer.decode([1, 104, 6], { skipSpecialTokens: false })).toBe('<|bos|>a<|end|>');
  });
});

describe('checkChatRoles', () => {
  const withTemplate = (chat_template: string) => loadChanged({ config: { chat_template } });
  const check = async (template: string | null, ...roles: string[]) => {
    const own = template === null ? await loadTokenizer(TINY['tiny-deepseek-v3']) : await withTemplate(template);
    return () => own.checkChatRoles(roles.map((role) => ({ role, content: 'x' })));
  };

  it('should refuse a message that the template would leave out, by its place and role, and say what it knows', async () => {
    expect(await check(null, 'system', 'user', 'assistant')).not.toThrow();
    const refused = errorOf(await check(null, 'user', 'zzz'));
    expect(refused).toMatchObject({ code: 'invalid_request', param: 'messages.1.role' });
    expect(refused.message).toMatch(/messages\.1\.role: .* role "zzz" out; it knows "system", "user", "assistant"$/);
    expect(errorOf(await check(null, 'tool')).message).toMatch(/role "tool" out/);
  });

  it('should leave to the template what it writes of any role, after its calls alone, or refuses by itself', async () => {
    expect(await check("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", 'zzz', 'tool')).not.toThrow();
    const afterCalls = "{% for m in messages %}{% if m.role != 'tool' or messages[loop.index0 - 1].tool_calls %}{{ m.content }}{% endif %}{% endfor %}";
    expect(await check(afterCalls, 'user', 'tool')).not.toThrow();
    expect(await check("{% for m in messages %}{% if m.role == 'zzz' %}{{ raise_exception('no') }}{% endif %}{% endfor %}", 'zzz')).not.toThrow();
  });
});

describe('renderChatTemplate', () => {
  const messages = [
    { role: 'system', content: 'S' },
    { role: 'user', content: 'U' },
  ];
  it('should write the conversation as trained, with or without the opening of an answer', () => {
    expect(tokenizer.renderChatTemplate(messages, { addGenerationPrompt: true })).toBe('<|bos|><|system|>S<|end|><|user|>U<|end|><|assistant|>');
    expect(tokenizer.renderChatTemplate(messages, { addGenerationPrompt: false })).toBe('<|bos|><|system|>S<|end|><|user|>U<|end|>');
    expect(
      tokenizer.encode(tokenizer.renderChatTemplate(messages, { addGenerationPrompt: true }), { addSpecialTokens: false }).filter((id) => id === 1),
    ).toEqual([1]);
  });

  it('should find the template in a list and in a file of its own, with special tokens as variables', async () => {
    const list = [
      { name: 'tool_use', template: 'no' },
      { name: 'default', template: '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{% for i in range(3) %}{{ i }}{% endfor %}' },
    ];
    const listed = await loadChanged({ config: { chat_template: list } });
    expect(listed.renderChatTemplate(messages, { addGenerationPrompt: true })).toBe('<|bos|>S<|end|>012');
    const folder = copyWithoutWeights('tiny-deepseek-v3');
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ messages | length }}');
    expect((await loadTokenizer(folder)).renderChatTemplate(messages, { addGenerationPrompt: true })).toBe('2');
  });

  it('should give a call its arguments as the template reads them: as text where it joins them to text, else as the object that they are', async () => {
    const of = async (template: string, written = '{"city":"Paris","n":[1]}') => {
      const { renderChatTemplate } = await loadChanged({ config: { chat_template: template } });
      const called = { id: 'a', type: 'function' as const, function: { name: 'f', arguments: written } };
      return renderChatTemplate([{ role: 'assistant', content: null, tool_calls: [called] }], { addGenerationPrompt: false, variables: { tools: [] } });
    };
    // Of DeepSeek-V3, Qwen3 and Kimi K2, each its way to the arguments.
    const deepseek = "{% for tool in messages[0]['tool_calls'] %}{{ tool['type'] + '\\n```json\\n' + tool['function']['arguments'] + '\\n```' }}{% endfor %}";
    const qwen =
      '{% for tool_call in messages[0].tool_calls %}{% if tool_call.function %}{% set tool_call = tool_call.function %}{% endif %}{% if tool_call.arguments is string %}{{ tool_call.arguments }}{% else %}{{ tool_call.arguments | tojson }}{% endif %}{% endfor %}';
    expect(await of(deepseek)).toBe('function\n```json\n{"city":"Paris","n":[1]}\n```');
    expect(await of(qwen)).toBe('{"city": "Paris", "n": [1]}');
    expect(await of(qwen, 'no JSON')).toBe('no JSON');
    expect(await of('{{ messages[0].tool_calls[0].function.arguments.city }}{{ messages[0].content is none }}{{ tools | length }}')).toBe('Paristrue0');
  });

  it('should keep the clock out of prompts', async () => {
    const dated = await loadChanged({ config: { chat_template: "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}fixed{% endif %}" } });
    expect(dated.renderChatTemplate(messages, { addGenerationPrompt: true })).toBe('fixed');
  });

  it("should pass on the template's own objection, and say where there is no template", async () => {
    const strict = await loadChanged({ config: { chat_template: "{{ raise_exception('roles must alternate') }}" } });
    const refused = errorOf(() => strict.renderChatTemplate(messages, { addGenerationPrompt: true }));
    expect(refused).toMatchObject({ code: 'invalid_request', param: 'messages', message: expect.stringContaining('roles must alternate') });
    const none = await loadChanged({ config: { chat_template: null } });
    expect(none.hasChatTemplate).toBe(false);
    expect(errorOf(() => none.renderChatTemplate(messages, { addGenerationPrompt: true })).message).toMatch(/has no chat template/);
    const malformed = await loadChanged({ config: { chat_template: '{% if %}' } });
    expect(errorOf(() => malformed.renderChatTemplate(messages, { addGenerationPrompt: true })).code).toBe('invalid_request');
  });
});

describe('loadTokenizer', () => {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
  it.each<[string, Record<string, unknown>, RegExp]>([
    ['another model', { model: { type: 'Unigram', vocab: [] } }, /model\.type: expected BPE, found "Unigram"/],
    ['a vocabulary without all bytes', { model: { type: 'BPE', vocab: { a: 0 }, merges: [] } }, /model\.vocab: expected a token for every byte/],
    ['another decoder', { decoder: { type: 'Metaspace' } }, /decoder: expected ByteLevel/],
    ['no pre-tokenizer', { pre_tokenizer: null }, /pre_tokenizer: expected Sequence, Split/],
    ['a pre-tokenizer that follows the engine', { pre_tokenizer: { type: 'BertPreTokenizer' } }, /pre_tokenizer: expected Sequence, Split.*BertPreTokenizer/],
    ['a prefix space', { pre_tokenizer: { ...byteLevel, add_prefix_space: true } }, /without add_prefix_space/],
    [
      'an unknown property',
      {
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: [{ type: 'Split', pattern: { Regex: '\\p{Emoji}' }, behavior: 'Isolated', invert: false }, byteLevel],
        },
      },
      /tokenizer\.json: pre_tokenizer: .*\\p\{Emoji\}/,
    ],
    ['a normalizer that follows the engine', { normalizer: { type: 'NFKC' } }, /normalizer: expected none or NFC/],
    ['an added token without id', { added_tokens: [{ content: 'x' }] }, /added_tokens: expected a list of tokens/],
  ])('should refuse %s', async (_, json, message) => {
    await expect(loadChanged({ json })).rejects.toMatchObject({ code: 'invalid_checkpoint', message: expect.stringMatching(message) });
  });

  it('should refuse a merge without a token: its text would vanish', async () => {
    const model = readJson(TINY['tiny-deepseek-v3'], 'tokenizer.json')['model'] as { merges: unknown[] };
    await expect(loadChanged({ json: { model: { ...model, merges: [...model.merges, ['zz', 'qq']] } } })).rejects.toThrow(
      /model\.merges\[1785\]: expected a pair of tokens/,
    );
  });

  it('should name a missing file', async () => {
    await expect(loadTokenizer('/nowhere')).rejects.toMatchObject({ code: 'invalid_checkpoint', message: '/nowhere/tokenizer.json: no such file' });
  });

  it('should be ready within 100 ms of processor time', async () => {
    const took_ms: number[] = [];
    for (let turn = 0; turn < 5; turn++) {
      const before = ownTime_ms();
      (await loadTokenizer(TINY['tiny-qwen3-moe'])).encode('Once upon a time', bos);
      took_ms.push(ownTime_ms() - before);
    }
    expect(Math.min(...took_ms)).toBeLessThan(100);
  });
});
