import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import type { Pod } from '../../src/pod.ts';
import { type Answer, type App, ask, askEvents, refusal } from './ask.ts';
import { FakePod } from './fake-pod.ts';
import { closePod, makePod } from './make-pod.ts';

const PATH = '/v1/chat/completions';
const messages = [
  { role: 'developer', content: 'Be short.' },
  {
    role: 'user',
    content: [
      { type: 'text', text: 'Hello' },
      { type: 'text', text: 'there' },
    ],
  },
];
/** What they mean to the pod. */
const plain = [
  { role: 'system', content: 'Be short.' },
  { role: 'user', content: 'Hello\nthere' },
];

describe('chat completions', () => {
  let pod: Pod;
  let app: App;
  beforeAll(async () => {
    pod = await makePod();
    app = createApp(pod);
  });
  afterAll(() => closePod(pod));

  it('should answer a conversation as the pod does', async () => {
    const direct = await pod.complete(plain, { max_tokens: 20, temperature: 0, logprobs: 2 });
    const answer = await ask(app, PATH, {
      messages,
      max_tokens: 99,
      max_completion_tokens: 20,
      temperature: 0,
      logprobs: true,
      top_logprobs: 2,
      return_token_ids: true,
    });
    const { cached_tokens: _, ...usage } = direct.usage;
    expect(answer).toMatchObject({ object: 'chat.completion', model: pod.model.name, prompt_token_ids: direct.prompt.token_ids, usage });
    const [choice] = answer.choices;
    expect(choice).toMatchObject({
      index: 0,
      message: { role: 'assistant', content: direct.choices[0]?.text, refusal: null },
      finish_reason: direct.choices[0]?.finish_reason,
    });
    expect(choice.token_ids).toEqual(direct.choices[0]?.token_ids);
    expect(choice.logprobs.content.map((one: Answer) => one.logprob)).toEqual(direct.choices[0]?.logprobs?.map((one) => one.logprob));
    expect(choice.logprobs.content[0].top_logprobs).toHaveLength(2);
    expect(choice.logprobs.content[0].bytes).toEqual(direct.choices[0]?.logprobs?.[0]?.bytes);
  });

  it('should stream what it would answer at once, roles first and usage last', async () => {
    const body = { messages, max_tokens: 20, temperature: 0, n: 2, logprobs: true, return_token_ids: true };
    const whole = await ask(app, PATH, body);
    const events = await askEvents(app, PATH, { ...body, stream_options: { include_usage: true } });
    expect(events.at(-1)).toBe('[DONE]');
    expect(events.at(-2)).toMatchObject({ object: 'chat.completion.chunk', choices: [], usage: whole.usage });
    const chunks = events.slice(0, -2);
    expect(chunks.slice(0, 2).map((chunk) => chunk.choices[0].delta.role)).toEqual(['assistant', 'assistant']);
    expect(chunks[0].prompt_token_ids).toEqual(whole.prompt_token_ids);
    expect(chunks.every((chunk) => chunk.usage === null)).toBe(true);
    for (const choice of whole.choices) {
      const own = chunks.map((chunk) => chunk.choices[0]).filter((one: Answer) => one.index === choice.index);
      expect(own.map((one: Answer) => one.delta.content ?? '').join('')).toBe(choice.message.content);
      expect(own.flatMap((one: Answer) => one.token_ids ?? [])).toEqual(choice.token_ids);
      expect(own.flatMap((one: Answer) => one.logprobs?.content ?? [])).toEqual(choice.logprobs.content);
      expect(own.at(-1).finish_reason).toBe(choice.finish_reason);
    }
  });

  it('should not send usage unasked', async () => {
    const events = await askEvents(app, PATH, { messages, max_tokens: 3 });
    expect(events.slice(0, -1).some((event) => 'usage' in event)).toBe(false);
  });

  it('should refuse what it does not serve, by name', async () => {
    const tools = [{ type: 'function', function: { name: 'f' } }];
    const cases: [object, string][] = [
      [{ tools }, 'tools'],
      [{ tools, tool_choice: 'auto' }, 'tools'],
      [{ tool_choice: 'required' }, 'tool_choice'],
      [{ response_format: { type: 'json_schema', json_schema: {} } }, 'response_format'],
      [{ messages: [] }, 'messages'],
      [{ messages: [{ role: 'tool', content: 'x' }] }, 'messages[0].tool_call_id'],
      [{ messages: [{ role: 'king', content: 'x' }] }, 'messages[0].role'],
      [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }, 'messages[0].content[0].type'],
      [{ messages: [{ role: 'user' }] }, 'messages[0].content'],
      [{ messages: 'hi' }, 'messages'],
      [{ top_logprobs: 2 }, 'top_logprobs'],
      [{ logprobs: 2 }, 'logprobs'],
      [{ max_completion_tokens: 0 }, 'max_completion_tokens'],
      [{ continue_final_message: true }, 'continue_final_message'],
    ];
    for (const [body, param] of cases) expect({ body, ...(await refusal(app, PATH, { messages, ...body })) }).toMatchObject({ body, status: 400, param });
  });

  it('should take tools that are not to be used', async () => {
    const tools = [{ type: 'function', function: { name: 'f' } }];
    expect((await ask(app, PATH, { messages, max_tokens: 2, tools, tool_choice: 'none', response_format: { type: 'text' } })).choices).toHaveLength(1);
    expect((await ask(app, PATH, { messages, max_tokens: 2, tools: [], tool_choice: 'auto' })).choices).toHaveLength(1);
  });

  it('should refuse a model without a chat template', async () => {
    const bare = createApp(new FakePod({}, { has_chat_template: false }));
    expect(await refusal(bare, PATH, { messages })).toMatchObject({ status: 400, param: 'messages' });
  });
});
