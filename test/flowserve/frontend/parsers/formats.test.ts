import { describe, expect, it } from 'vitest';
import { PartCollector } from '../../../../src/flowserve/frontend/parsers/reply-part.ts';
import { ownTime_ms } from '../../../own-time.ts';
import { joined, parse } from './parse.ts';

/** Those whose arguments are JSON already. */
const JSON_PARSERS = ['hermes', 'deepseek_v3', 'deepseek_v31', 'kimi_k2'] as const;
type JsonParser = (typeof JSON_PARSERS)[number];

const PARIS = '{"city": "Paris", "days": [1, 2], "note": "a \\"b\\" }"}';
const weather = (args = PARIS, id: string | null = null) => ({ name: 'get_weather', id, arguments: args });

describe('reasoning parsers', () => {
  const read = (reasoning_parser: 'deepseek_r1' | 'deepseek_v3' | 'qwen3' | 'kimi_k2', text: string, prompt_tail = '') => {
    const { reasoning, content } = joined(parse({ reasoning_parser, prompt_tail }, text));
    return [reasoning, content];
  };

  it('should read what DeepSeek R1 and Qwen3 write, whether they or their template open it', () => {
    for (const name of ['deepseek_r1', 'qwen3', 'kimi_k2'] as const) {
      expect(read(name, '<think>\nThey greet.\n</think>\n\nHello!')).toEqual(['\nThey greet.\n', '\n\nHello!']);
      expect(read(name, '\n<think>They greet.</think>Hello!')).toEqual(['They greet.', 'Hello!']);
      expect(read(name, 'They greet.</think>Hello!', '<|im_start|>assistant\n<think>\n')).toEqual(['They greet.', 'Hello!']);
      expect(read(name, 'They greet.</think>Hello!')).toEqual(['They greet.', 'Hello!']);
      expect(read(name, '<think></think>Hello!')).toEqual(['', 'Hello!']);
    }
  });

  it('should take a reply that was cut off for reasoning', () => {
    for (const name of ['deepseek_r1', 'qwen3'] as const) {
      expect(read(name, '<think>They gre')).toEqual(['They gre', '']);
      expect(read(name, 'They gre')).toEqual(['They gre', '']);
      expect(read(name, 'They gre</thi')).toEqual(['They gre</thi', '']);
    }
  });

  it('should take a reply for the answer where the prompt has closed the reasoning', () => {
    for (const name of ['deepseek_r1', 'deepseek_v3', 'qwen3'] as const)
      expect(read(name, 'Hello <think> you', '<|im_start|>assistant\n<think>\n\n</think>\n\n')).toEqual(['', 'Hello <think> you']);
  });

  it('should take a reply of DeepSeek V3 for the answer unless it or its prompt opens the reasoning', () => {
    expect(read('deepseek_v3', 'Hello')).toEqual(['', 'Hello']);
    expect(read('deepseek_v3', ' \nHello </think>')).toEqual(['', ' \nHello </think>']);
    expect(read('deepseek_v3', 'Hm.</think>Hello', '<｜Assistant｜><think>')).toEqual(['Hm.', 'Hello']);
    expect(read('deepseek_v3', '<think>Hm.</think>Hello')).toEqual(['Hm.', 'Hello']);
    expect(read('deepseek_v3', '<thinly>')).toEqual(['', '<thinly>']);
  });

  it('should keep marks that mark nothing', () => {
    expect(read('qwen3', '<think>a <think> b</think>c</think>d<think>')).toEqual(['a <think> b', 'c</think>d<think>']);
    expect(read('qwen3', 'a < b </ c </think>1 < 2')).toEqual(['a < b </ c ', '1 < 2']);
  });

  it("should end Kimi's reasoning where a call begins", () => {
    const parsed = joined(parse({ reasoning_parser: 'kimi_k2', tool_call_parser: 'kimi_k2' }, `<think>I look.${kimi(call('kimi_k2', PARIS))}`));
    expect(parsed).toEqual({ reasoning: 'I look.', content: '', calls: [weather(PARIS, 'functions.get_weather:0')] });
  });
});

const deepseek = (...calls: string[]): string => `<｜tool▁calls▁begin｜>${calls.join('\n')}<｜tool▁calls▁end｜>`;
const kimi = (...calls: string[]): string => `<|tool_calls_section_begin|>${calls.join('')}<|tool_calls_section_end|>`;

/** A call as a family writes it. */
function call(parser: JsonParser, args: string, index = 0): string {
  switch (parser) {
    case 'hermes':
      return `<tool_call>\n{"name": "get_weather", "arguments": ${args}}\n</tool_call>`;
    case 'deepseek_v3':
      return `<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\`\`\`json\n${args}\n\`\`\`<｜tool▁call▁end｜>`;
    case 'deepseek_v31':
      return `<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>${args}<｜tool▁call▁end｜>`;
    case 'kimi_k2':
      return `<|tool_call_begin|>functions.get_weather:${index}<|tool_call_argument_begin|>${args}<|tool_call_end|>`;
  }
}
const section = (parser: JsonParser, ...calls: string[]): string =>
  parser === 'hermes' ? calls.join('\n') : parser === 'kimi_k2' ? kimi(...calls) : deepseek(...calls);

describe('tool call parsers', () => {
  for (const parser of JSON_PARSERS) {
    const read = (text: string) => joined(parse({ tool_call_parser: parser }, text));
    const idOf = (index: number) => (parser === 'kimi_k2' ? `functions.get_weather:${index}` : null);

    it(`should read calls and the text before them: ${parser}`, () => {
      const calls = [weather(PARIS, idOf(0)), weather('{}', idOf(1))];
      expect(read(section(parser, call(parser, PARIS), call(parser, '{}', 1)))).toEqual({ reasoning: '', content: '', calls });
      expect(read(`\n\n${section(parser, call(parser, PARIS))}\n`)).toEqual({ reasoning: '', content: '', calls: [weather(PARIS, idOf(0))] });
      const talked = read(`I look it up.\n${section(parser, call(parser, PARIS))} Then I tell.`);
      expect(talked).toEqual({ reasoning: '', content: 'I look it up.\n Then I tell.', calls: [weather(PARIS, idOf(0))] });
    });

    it(`should read calls after the reasoning, and none within: ${parser}`, () => {
      const thought = `Perhaps ${section(parser, call(parser, '{}'))}?`;
      const options = { reasoning_parser: 'qwen3', tool_call_parser: parser } as const;
      const parsed = joined(parse(options, `<think>${thought}</think>\n\n${section(parser, call(parser, PARIS))}`));
      expect(parsed).toEqual({ reasoning: thought, content: '', calls: [weather(PARIS, idOf(0))] });
    });

    it(`should pass on arguments as they are, be they JSON or not, and those of a call that was cut off: ${parser}`, () => {
      const broken = '{"city": "Pa"ris", days: 1';
      expect(read(section(parser, call(parser, broken))).calls[0]?.arguments).toMatch(/^\{"city": "Pa"ris", days: 1\}?$/);
      const whole = section(parser, call(parser, PARIS));
      const cut = whole.slice(0, whole.indexOf('Paris') + 3);
      expect(read(cut)).toEqual({ reasoning: '', content: '', calls: [weather('{"city": "Par', idOf(0))] });
    });

    it(`should take text without a call for text, marks and all: ${parser}`, () => {
      const whole = section(parser, call(parser, PARIS));
      const beforeName = whole.slice(0, whole.indexOf('get_weather') + 3);
      for (const text of ['', 'Hello', ' \n', '<', '<tool_call', 'a <｜tool▁ b <|tool_ c', beforeName, beforeName.slice(0, -12)])
        expect(read(text)).toEqual({ reasoning: '', content: text, calls: [] });
    });
  }

  it('should come to the end of a call at once, whatever white space and stray backticks stand before it', () => {
    const args = `{}${' '.repeat(3_000)}\``;
    const whole = `${deepseek(call('deepseek_v3', args)).replace('\n```<', '<')}`;
    const began_ms = ownTime_ms();
    expect(joined(parse({ tool_call_parser: 'deepseek_v3' }, whole)).calls).toEqual([weather(args)]);
    // A pattern that looked for the fence took time by the third power: 7 s.
    expect(ownTime_ms() - began_ms).toBeLessThan(1_000);
  });

  it('should read a call of Hermes whose members are in another order, or whose arguments are missing', () => {
    const read = (block: string) => joined(parse({ tool_call_parser: 'hermes' }, `<tool_call>${block}</tool_call>`));
    expect(read('{"arguments": {"id": 12345678901234567890, "s": "}"}, "name": "get_weather"}').calls).toEqual([
      weather('{"id": 12345678901234567890, "s": "}"}'),
    ]);
    // A quote within a text does not end it, nor does what follows one.
    expect(read('{"name": "get_weather", "arguments": {"s": "a \\" } \\\\", "n": 1}}').calls).toEqual([weather('{"s": "a \\" } \\\\", "n": 1}')]);
    expect(read('{"arguments": {"s": "\\"}"}, "name": "get_weather"}').calls).toEqual([weather('{"s": "\\"}"}')]);
    expect(read('{"name": "get_weather"}').calls).toEqual([weather('{}')]);
    expect(read('{"name": "get_weather", "arguments": {"a": 1}, "id": "x"}').calls).toEqual([weather('{"a": 1}')]);
    expect(read('{"name": "get_weather", "arguments": null}').calls).toEqual([weather('null')]);
    expect(read('{"name": "get\\u005fweather", "arguments": {}}').calls).toEqual([weather('{}')]);
  });

  it('should give as few parts as there are, each of one call', () => {
    const parts = new PartCollector();
    for (const text of ['a', '', 'b']) parts.emit({ kind: 'content', text });
    parts.emit({ kind: 'arguments', index: 0, text: '{' });
    parts.emit({ kind: 'arguments', index: 0, text: '}' });
    parts.emit({ kind: 'arguments', index: 1, text: '[]' });
    expect(parts.take()).toEqual([
      { kind: 'content', text: 'ab' },
      { kind: 'arguments', index: 0, text: '{}' },
      { kind: 'arguments', index: 1, text: '[]' },
    ]);
    expect(parts.take()).toEqual([]);
  });

  it('should take a block of Hermes that is no call for text', () => {
    for (const block of [
      '',
      'get_weather(Paris)',
      '{"name": 1, "arguments": {}}',
      '[1]',
      '{"name": "get_weather" "arguments": {}}',
      '{"name": "", "arguments": {}}',
    ]) {
      const text = `<tool_call>${block}</tool_call>`;
      expect(joined(parse({ tool_call_parser: 'hermes' }, text))).toEqual({ reasoning: '', content: text, calls: [] });
    }
  });

  it('should read the calls of a section beside those that are none', () => {
    const bad = '<｜tool▁call▁begin｜>function<｜tool▁call▁end｜>';
    const parsed = joined(parse({ tool_call_parser: 'deepseek_v3' }, deepseek(bad, call('deepseek_v3', PARIS))));
    expect(parsed).toEqual({ reasoning: '', content: `${bad}\n`, calls: [weather()] });
    const unclosed = joined(parse({ tool_call_parser: 'kimi_k2' }, kimi(call('kimi_k2', PARIS).replace('<|tool_call_end|>', ''), call('kimi_k2', '{}', 1))));
    expect(unclosed.calls).toEqual([weather(PARIS, 'functions.get_weather:0'), weather('{}', 'functions.get_weather:1')]);
  });

  it('should give a name as soon as arguments begin, and then each piece of them', () => {
    for (const parser of JSON_PARSERS) {
      const text = section(parser, call(parser, PARIS));
      const parts = parse({ tool_call_parser: parser }, ...text);
      expect(parts.filter(({ kind }) => kind === 'call')).toHaveLength(1);
      expect(parts.filter(({ kind }) => kind === 'arguments').length).toBeGreaterThan(PARIS.length / 2);
    }
  });
});

describe("Qwen3-Coder's tool calls", () => {
  const properties = {
    city: { type: 'string' },
    days: { type: 'integer' },
    size: { type: 'number' },
    exact: { type: 'boolean' },
    places: { anyOf: [{ type: 'array' }, { type: 'null' }] },
    either: { type: ['string', 'integer'] },
  };
  const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties } } }];
  const read = (text: string) => joined(parse({ tool_call_parser: 'qwen3_coder', tools }, text));
  const calling = (parameters: Record<string, string>) =>
    `<tool_call>\n<function=get_weather>\n${Object.entries(parameters)
      .map(([name, value]) => `<parameter=${name}>\n${value}\n</parameter>\n`)
      .join('')}</function>\n</tool_call>`;
  const argumentsOf = (parameters: Record<string, string>) => read(calling(parameters)).calls[0]?.arguments;

  it('should have arguments of the types of their schema, and text for what is not', () => {
    expect(argumentsOf({ city: 'Paris', days: '3', size: '1.50', exact: 'True', places: '["a", {"b": 1}]', either: '7', other: '7' })).toBe(
      '{"city": "Paris", "days": 3, "size": 1.50, "exact": true, "places": ["a", {"b": 1}], "either": 7, "other": "7"}',
    );
    expect(argumentsOf({ city: '12', days: 'three', size: '12345678901234567890', exact: 'maybe', places: '[1', either: 'x' })).toBe(
      '{"city": "12", "days": "three", "size": 12345678901234567890, "exact": "maybe", "places": "[1", "either": "x"}',
    );
    expect(argumentsOf({ city: 'null', constructor: '\n"a"\n\n<b>\n' })).toBe('{"city": null, "constructor": "\\n\\"a\\"\\n\\n<b>\\n"}');
    expect(argumentsOf({})).toBe('{}');
  });

  it('should be read with the text beside them, several of them, and without what models leave out', () => {
    const two = read(`I look.\n${calling({ city: 'Paris' })}\n${calling({ city: 'Rome' })}\n`);
    expect(two).toEqual({ reasoning: '', content: 'I look.\n', calls: [weather('{"city": "Paris"}'), weather('{"city": "Rome"}')] });
    const bare = '<function=get_weather>\n<parameter=city>\nParis\n<parameter=days>\n3\n</function>';
    expect(read(bare)).toEqual({ reasoning: '', content: '', calls: [weather('{"city": "Paris", "days": 3}')] });
    expect(read(`<tool_call>${bare}${bare}</tool_call>Done.`)).toMatchObject({ content: 'Done.', calls: [{}, {}] });
    expect(read('<tool_call><function=get_weather></tool_call>').calls).toEqual([weather('{}')]);
  });

  it('should be half where they were cut off', () => {
    const whole = calling({ days: '3', city: 'Paris' });
    expect(read(whole.slice(0, whole.indexOf('Paris') + 3)).calls).toEqual([weather('{"days": 3, "city": "Par')]);
    expect(read(whole.slice(0, whole.indexOf('<parameter=city') + 12))).toMatchObject({ calls: [weather('{"days": 3')] });
  });

  it('should be text where they name no function', () => {
    for (const text of [
      '<tool_call>\n{"name": "f"}\n</tool_call>',
      '<tool_call>\n<function=',
      '<tool_call><function=>x</tool_call>',
      '<tool_call>',
      'a <function',
      '<function=get_we',
    ])
      expect(read(text)).toEqual({ reasoning: '', content: text, calls: [] });
  });
});
