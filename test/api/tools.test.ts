import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, createApp, serve } from '../../src/api/index.ts';
import type { Pod } from '../../src/index.ts';
import { type Answer, type App, ask, askEvents, refusal } from './ask.ts';
import { closePod } from './make-pod.ts';
import { type SpokenPod, spokenPod } from './spoken-pod.ts';

const PATH = '/v1/chat/completions';
const tools = [
  {
    type: 'function' as const,
    function: { name: 'get_weather', description: 'Now.', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } },
  },
];
const messages = [{ role: 'user' as const, content: 'Paris?' }];
const THOUGHT = '<think>I look.</think>\n\n';
const HERMES = ['<tool_call>\n{"name": "get_we', 'ather", "arguments": {"city": "Par', 'is"}}\n</tool_call>'] as const;
const HERMES_AGAIN = '\n<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>';
const OPEN = '<｜tool▁calls▁begin｜>';
const DEEPSEEK = [
  `${OPEN}<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\`\`\``,
  'json\n{"city": "Paris"}\n`',
  '``<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
] as const;
const TALK = 'It rains.';

/** What Hugging Face templates do with tools and calls, in short. */
const TEMPLATE = `{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for m in messages %}[{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}]
{%- if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{% if m.content is not none %}{{ m.content }}{% endif %}
{%- if m.tool_calls %}{% for call in m.tool_calls %}<{{ call.function.name }} {{ call.id }} {{ call.function.arguments | tojson }} {{ call.function.arguments.city }}>{% endfor %}{% endif %}
{%- endfor %}[assistant]{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}`;

/** The deltas of a choice, joined as clients join them. */
function joinDeltas(events: Answer[], choice = 0): Answer {
  const message: Answer = { role: null, content: null, reasoning: null, reasoning_content: null, tool_calls: [] };
  let finish_reason = null;
  for (const event of events) {
    if (event === '[DONE]') continue;
    for (const { index, delta, finish_reason: reason } of event.choices) {
      if (index !== choice) continue;
      if (delta.role) message.role = delta.role;
      for (const field of ['content', 'reasoning', 'reasoning_content']) if (delta[field]) message[field] = (message[field] ?? '') + delta[field];
      for (const { index: at, id, type, function: part } of delta.tool_calls ?? []) {
        if (id !== undefined) message.tool_calls[at] = { id, type, function: { name: part.name, arguments: '' } };
        message.tool_calls[at].function.arguments += part.arguments;
      }
      finish_reason = reason ?? finish_reason;
    }
  }
  return { message, finish_reason };
}

describe('reasoning and tool calls', () => {
  let spoken: SpokenPod;
  let pod: Pod;
  let hermes: App;
  let deepseek: App;
  let bare: App;
  beforeAll(async () => {
    // Each reply's first token comes from prefill, the others from decode.
    spoken = await spokenPod(TEMPLATE, [THOUGHT, ...HERMES, HERMES_AGAIN, ...DEEPSEEK, TALK], [THOUGHT, DEEPSEEK[0]], {
      topology: 'pd:prefill=1xdp1,decode=1xdp1',
    });
    pod = spoken.pod;
    hermes = createApp(pod, { reasoning_parser: 'qwen3', enable_auto_tool_choice: true, tool_call_parser: 'hermes' });
    deepseek = createApp(pod, { enable_auto_tool_choice: true, tool_call_parser: 'deepseek_v3' });
    bare = createApp(pod);
  });
  afterAll(async () => {
    await closePod(pod);
    await spoken[Symbol.asyncDispose]();
  });
  const paris = {
    id: expect.stringMatching(/^chatcmpl-tool-[0-9a-f]{32}$/),
    type: 'function',
    function: { name: 'get_weather', arguments: '{"city": "Paris"}' },
  };

  it('should be parsed for programs as well, piece by piece and whole, where the tokens are generated', async () => {
    const prompt = { messages, tools };
    const options = { ...spoken.say(THOUGHT, ...HERMES), reasoning_parser: 'qwen3' as const, tool_call_parser: 'hermes' as const };
    const { choices } = await pod.complete(prompt, options);
    const parts = [
      { kind: 'reasoning', text: 'I look.' },
      { kind: 'call', index: 0, name: 'get_weather', id: null },
      { kind: 'arguments', index: 0, text: '{"city": "Paris"}' },
    ];
    expect(choices[0]).toMatchObject({ text: [THOUGHT, ...HERMES].join(''), parsed: { parts } });
    const pieces = [];
    for await (const { parsed } of pod.generate(prompt, options)) pieces.push(parsed?.parts.map(({ kind }) => kind));
    expect(pieces).toEqual([['reasoning'], [], ['call', 'arguments'], ['arguments'], []]);
    expect((await pod.complete(prompt, spoken.say(TALK))).choices[0]).not.toHaveProperty('parsed');
  });

  it('should be parsed out of what the model says, whole', async () => {
    const answer = await ask(hermes, PATH, { messages, tools, ...spoken.say(THOUGHT, ...HERMES) });
    expect(answer.choices).toMatchObject([{ finish_reason: 'tool_calls', stop_reason: null, logprobs: null }]);
    expect(answer.choices[0].message).toEqual({
      role: 'assistant',
      content: null,
      refusal: null,
      reasoning: 'I look.',
      reasoning_content: 'I look.',
      tool_calls: [paris],
    });
    // The thought is one token here, which ends it as well.
    expect(answer.usage).toMatchObject({ completion_tokens: 5, completion_tokens_details: { reasoning_tokens: 0 } });
    const other = await ask(deepseek, PATH, { messages, tools, ...spoken.say(TALK, ...DEEPSEEK) });
    expect(other.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: TALK, tool_calls: [paris] } });
    expect(other.choices[0].message).not.toHaveProperty('reasoning');
    expect(other.usage).not.toHaveProperty('completion_tokens_details');
  });

  it('should stream as deltas, each argument as it comes', async () => {
    const body = { messages, tools, n: 2, ...spoken.say(THOUGHT, ...HERMES) };
    const events = await askEvents(hermes, PATH, { ...body, stream_options: { include_usage: true } });
    for (const choice of [0, 1]) {
      const { message, finish_reason } = joinDeltas(events, choice);
      expect(finish_reason).toBe('tool_calls');
      expect(message).toEqual({ role: 'assistant', content: null, reasoning: 'I look.', reasoning_content: 'I look.', tool_calls: [paris] });
      const calls = events.flatMap((event) => (event === '[DONE]' ? [] : event.choices)).filter((one: Answer) => one.index === choice && one.delta.tool_calls);
      expect(calls.map((one: Answer) => one.delta.tool_calls)).toEqual([
        [{ index: 0, id: expect.any(String), type: 'function', function: { name: 'get_weather', arguments: '{"city": "Par' } }],
        [{ index: 0, function: { arguments: 'is"}' } }],
      ]);
    }
    expect(events.at(-2)).toMatchObject({ choices: [], usage: { completion_tokens: 10, completion_tokens_details: { reasoning_tokens: 0 } } });
    expect(events.slice(0, 2).map((event) => event.choices[0].delta)).toEqual([
      { role: 'assistant', content: '' },
      { role: 'assistant', content: '' },
    ]);
  });

  it('should end with what was left of its call where it was cut off', async () => {
    const answer = await ask(hermes, PATH, { messages, tools, ...spoken.say(...HERMES.slice(0, 2)), max_tokens: 2, ...NO_THINKING });
    expect(answer.choices[0]).toMatchObject({
      finish_reason: 'length',
      message: { content: null, tool_calls: [{ function: { arguments: '{"city": "Par' } }] },
    });
  });

  it('should come several at once, or the first alone where asked for', async () => {
    const body = { messages, tools, ...NO_THINKING, ...spoken.say(...HERMES, HERMES_AGAIN) };
    const both = await ask(hermes, PATH, body);
    expect(both.choices[0].message.tool_calls.map((call: Answer) => call.function.arguments)).toEqual(['{"city": "Paris"}', '{"city": "Rome"}']);
    expect(joinDeltas(await askEvents(hermes, PATH, body)).message.tool_calls).toHaveLength(2);
    const first = { ...body, parallel_tool_calls: false };
    expect((await ask(hermes, PATH, first)).choices[0].message).toMatchObject({ content: null, tool_calls: [paris] });
    expect(joinDeltas(await askEvents(hermes, PATH, first)).message.tool_calls).toEqual([paris]);
  });

  it('should leave reasoning out where asked to, and count it all the same', async () => {
    const [answer, cut] = await Promise.all([
      ask(hermes, PATH, { messages, ...spoken.say(THOUGHT, TALK), include_reasoning: false }),
      ask(hermes, PATH, { messages, ...spoken.say(TALK), include_reasoning: false, max_tokens: 1 }),
    ]);
    expect(answer.choices[0].message).toEqual({ role: 'assistant', content: `\n\n${TALK}`, refusal: null });
    expect(cut.choices[0].message).toEqual({ role: 'assistant', content: null, refusal: null });
    expect(cut.usage.completion_tokens_details).toEqual({ reasoning_tokens: 1 });
  });

  it('should begin as the prompt leaves it', async () => {
    const say = { messages, ...spoken.say(TALK) };
    expect((await ask(hermes, PATH, say)).choices[0].message).toMatchObject({ content: null, reasoning: TALK });
    expect((await ask(hermes, PATH, { ...say, ...NO_THINKING })).choices[0].message).toMatchObject({ content: TALK, reasoning: null });
  });

  it('should be text where no tools may be called, or no parser is set', async () => {
    const said = spoken.say(...HERMES);
    const text = HERMES.join('');
    for (const body of [
      { messages, ...said, tools, tool_choice: 'none' },
      { messages, ...said },
    ])
      for (const app of [bare, deepseek]) expect((await ask(app, PATH, body)).choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: text } });
  });

  it('should render tools, calls and their results through the chat template', async () => {
    const called = { id: 'call_1', type: 'function' as const, function: { name: 'get_weather', arguments: '{"city":"Paris"}' } };
    const conversation = [
      ...messages,
      { role: 'assistant', content: null, reasoning_content: 'Hm.', tool_calls: [called, { ...called, function: { name: 'f', arguments: 'no JSON' } }] },
      { role: 'tool', tool_call_id: 'call_1', name: 'get_weather', content: [{ type: 'text', text: 'rain' }] },
    ];
    const rendered = '[user]Paris?[assistant](Hm.)<get_weather call_1 {"city": "Paris"} Paris><f call_1 "no JSON" >[tool get_weather call_1]rain[assistant]';
    const text = async (body: object) => {
      const { prompt_token_ids } = await ask(hermes, PATH, { messages: conversation, return_token_ids: true, max_tokens: 1, ...body });
      return pod.detokenize(prompt_token_ids, { skip_special_tokens: false });
    };
    const list =
      '<tools>{"type": "function", "function": {"name": "get_weather", "description": "Now.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}</tools>';
    expect(await text({})).toBe(rendered);
    expect(await text({ tools })).toBe(list + rendered);
    expect(await text({ tools, tool_choice: 'none' })).toBe(rendered);
    expect(await text(NO_THINKING)).toBe(`${rendered}<think></think>`);
    const { tokens } = await ask(hermes, '/tokenize', { messages: conversation, tools });
    expect(await pod.detokenize(tokens)).toBe(list + rendered);
  });

  it('should be part of a context, which chats with the same tools go on from', async () => {
    const context = { messages, tools, chat_template_kwargs: { enable_thinking: false } };
    const { id, tokens } = await ask(hermes, '/v1/contexts', context);
    const chat = { ...context, messages: [{ role: 'user', content: 'Rome?' }], max_tokens: 1, return_token_ids: true };
    const onward = await ask(hermes, PATH, { ...chat, context_id: id });
    const whole = await ask(hermes, PATH, { ...chat, messages: [...messages, ...chat.messages], cache_salt: 'cold' });
    expect(onward.prompt_token_ids).toEqual(whole.prompt_token_ids);
    // Of the context all but what the template writes at an end.
    expect(onward.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(tokens / 2);
    expect(await refusal(bare, '/v1/contexts', context)).toMatchObject({ status: 400, param: 'tools', code: 'unsupported_parameter' });
    expect((await hermes.request(`/v1/contexts/${id}`, { method: 'DELETE' })).status).toBe(200);
  });

  it('should refuse what no server without guided decoding can promise, and what this one is not set up for', async () => {
    const named = { type: 'function', function: { name: 'get_weather' } };
    const cases: [App, object, string, RegExp][] = [
      [hermes, { tools, tool_choice: 'required' }, 'tool_choice', /guided decoding/],
      [hermes, { tools, tool_choice: named }, 'tool_choice', /guided decoding/],
      [hermes, { tool_choice: 'required' }, 'tool_choice', /needs tools/],
      [hermes, { tools, tool_choice: 'perhaps' }, 'tool_choice', /"none", "auto" or "required"/],
      [hermes, { tools: [{ type: 'function', function: {} }] }, 'tools[0].function.name', /must be a string/],
      [hermes, { tools: [{ type: 'web_search' }] }, 'tools[0].type', /must be "function"/],
      [bare, { tools }, 'tools', /requires --enable-auto-tool-choice and --tool-call-parser/],
      [hermes, { messages: [{ role: 'tool', content: 'x' }] }, 'messages[0].tool_call_id', /the id of the call/],
      [
        hermes,
        { messages: [{ role: 'user', content: 'x', tool_calls: [{ id: 'a', function: { name: 'f', arguments: '' } }] }] },
        'messages[0].tool_calls',
        /assistant/,
      ],
      [
        hermes,
        { messages: [{ role: 'assistant', tool_calls: [{ id: 'a', function: { name: 'f', arguments: {} } }] }] },
        'messages[0].tool_calls[0].function.arguments',
        /JSON/,
      ],
      [hermes, { messages: [{ role: 'assistant' }] }, 'messages[0].content', /must be a string/],
    ];
    for (const [app, body, param, message] of cases) {
      const refused = await refusal(app, PATH, { messages, ...body });
      expect(refused).toMatchObject({ status: 400, param });
      expect(refused.message).toMatch(message);
    }
  });

  it('should leave special tokens out of a completion unless they are asked for', async () => {
    const body = { prompt: 'Paris?', logprobs: 0, ...spoken.say(TALK, THOUGHT, HERMES[0]) };
    const without = (await ask(bare, '/v1/completions', body)).choices[0];
    const shown = (await ask(bare, '/v1/completions', { ...body, skip_special_tokens: false })).choices[0];
    expect([without.text, shown.text]).toEqual([TALK + HERMES[0], TALK + THOUGHT + HERMES[0]]);
    expect(without.logprobs.text_offset.slice(0, 3)).toEqual([0, TALK.length, TALK.length]);
    expect(shown.logprobs.text_offset.slice(0, 3)).toEqual([0, TALK.length, TALK.length + THOUGHT.length]);
  });

  it('should be set up with both options or none', () => {
    expect(() => createApp(pod, { enable_auto_tool_choice: true })).toThrow(expect.objectContaining({ param: 'tool_call_parser' }));
    expect(() => createApp(pod, { tool_call_parser: 'hermes' })).toThrow(expect.objectContaining({ param: 'enable_auto_tool_choice' }));
    expect(() => createApp(pod, { reasoning_parser: 'o1' as 'qwen3' })).toThrow(expect.objectContaining({ param: 'reasoning_parser' }));
  });

  it('should serve the openai client over HTTP, whole and streamed, and its answer with the result', async () => {
    const server: ApiServer = await serve({ pod, port: 0, reasoning_parser: 'qwen3', enable_auto_tool_choice: true, tool_call_parser: 'hermes' });
    try {
      const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' });
      const body = { model: pod.model.name, messages, tools, ...spoken.say(THOUGHT, ...HERMES) };
      const streamed = await client.chat.completions.stream(body).finalChatCompletion();
      expect(streamed.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { tool_calls: [paris] } });
      const whole = await client.chat.completions.create(body);
      const message = whole.choices[0]?.message as OpenAI.ChatCompletionMessage;
      expect(message).toMatchObject({ content: null, tool_calls: [paris] });
      const result = { role: 'tool' as const, tool_call_id: message.tool_calls?.[0]?.id ?? '', content: 'rain' };
      const last = await client.chat.completions.create({ ...body, messages: [...messages, message, result], ...spoken.say(THOUGHT, TALK) });
      expect(last.choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: `\n\n${TALK}`, reasoning: 'I look.' } });
    } finally {
      await server.close();
    }
  });
});

const NO_THINKING = { chat_template_kwargs: { enable_thinking: false } };
