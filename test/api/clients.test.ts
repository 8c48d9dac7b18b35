import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, serve } from '../../src/api/index.ts';
import type { Pod } from '../../src/pod.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { FakePod } from './fake-pod.ts';
import { closePod, makePod } from './make-pod.ts';

const KEY = 'secret';
const messages = [{ role: 'user' as const, content: 'Once upon a time' }];

describe('clients', () => {
  let pod: Pod;
  let server: ApiServer;
  let openai: OpenAI;
  let model: string;
  beforeAll(async () => {
    pod = await makePod();
    model = pod.model.name;
    server = await serve({ pod, port: 0, api_key: KEY });
    openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, maxRetries: 0 });
  });
  afterAll(async () => {
    await server.close();
    await closePod(pod);
  });

  it('should serve the openai client completions, whole and streamed', async () => {
    const body = { model, prompt: [72, 101, 108], max_tokens: 12, temperature: 0, logprobs: 2 };
    const whole = await openai.completions.create(body);
    expect(whole.choices[0]?.logprobs?.tokens?.length).toBe(whole.usage?.completion_tokens);
    let text = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of await openai.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.text ?? '';
      usage = chunk.usage;
    }
    expect(text).toBe(whole.choices[0]?.text);
    expect(usage).toEqual(whole.usage);
  });

  it('should serve the openai client chats, whole and streamed', async () => {
    const body = { model, messages, max_completion_tokens: 12, temperature: 0, logprobs: true, top_logprobs: 3 };
    const whole = await openai.chat.completions.create(body);
    expect(whole.choices[0]?.message.role).toBe('assistant');
    expect(whole.choices[0]?.logprobs?.content?.[0]?.top_logprobs).toHaveLength(3);
    const final = await openai.chat.completions.stream({ ...body, stream_options: { include_usage: true } }).finalChatCompletion();
    expect(final.choices[0]?.message.content).toBe(whole.choices[0]?.message.content);
    expect(final.choices[0]?.logprobs?.content).toEqual(whole.choices[0]?.logprobs?.content);
    expect(final.usage).toEqual(whole.usage);
  });

  it('should list models to the openai client', async () => {
    expect((await openai.models.list()).data.map((one) => one.id)).toEqual([model]);
    expect((await openai.models.retrieve(model)).id).toBe(model);
  });

  it('should fail in the classes of the openai client', async () => {
    await expect(openai.models.retrieve('nothing')).rejects.toThrow(OpenAI.NotFoundError);
    await expect(openai.completions.create({ model, prompt: 'x', temperature: -1 })).rejects.toThrow(OpenAI.BadRequestError);
    await expect(openai.completions.create({ model, prompt: 'x', temperature: -1 })).rejects.toMatchObject({
      status: 400,
      param: 'temperature',
      type: 'invalid_request_error',
    });
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
    await expect(openai.completions.create({ model, prompt: 'x', stream: true, max_tokens: pod.model.context_length * 2 })).rejects.toMatchObject({
      code: 'context_length_exceeded',
    });
  });

  it('should serve the AI SDK', async () => {
    const provider = createOpenAICompatible({ name: 'minipod', baseURL: `${server.url}/v1`, apiKey: KEY, includeUsage: true });
    const options = { model: provider(model), prompt: 'Once upon a time', maxOutputTokens: 12, temperature: 0 };
    const { text, usage, finishReason } = await generateText(options);
    expect(text.length).toBeGreaterThan(0);
    expect(['stop', 'length']).toContain(finishReason);
    const stream = streamText(options);
    let streamed = '';
    for await (const part of stream.textStream) streamed += part;
    expect(streamed).toBe(text);
    expect((await stream.usage).outputTokens).toBe(usage.outputTokens);
    const completion = await generateText({ ...options, model: provider.completionModel(model) });
    expect(completion.text.length).toBeGreaterThan(0);
  });
});

describe('clients of a pod in trouble', () => {
  const pod = new FakePod({}, { context_length: 100_000 });
  let server: ApiServer;
  let openai: OpenAI;
  beforeAll(async () => {
    server = await serve({ pod, port: 0, onError: () => {} });
    openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'any' });
  });
  afterAll(() => server.close());

  it('should cancel when the openai client aborts', async () => {
    pod.faults = { delay_ms: 5 };
    const stream = await openai.chat.completions.create({ model: 'fake', messages, stream: true });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 5) stream.controller.abort();
    await expect.poll(() => pod.running).toBe(0);
    expect(pod.cancelled).toBe(1);
    const abort = new AbortController();
    const whole = openai.chat.completions.create({ model: 'fake', messages, max_tokens: 50_000 }, { signal: abort.signal });
    await expect.poll(() => pod.running).toBe(1);
    abort.abort();
    await expect(whole).rejects.toThrow(OpenAI.APIUserAbortError);
    await expect.poll(() => pod.running).toBe(0);
  });

  it('should throw in the openai client when a stream fails midway', async () => {
    pod.faults = { fail_after: { chunks: 3, error: new MinipodError('worker_failed', 'worker 2 died') } };
    const stream = await openai.completions.create({ model: 'fake', prompt: 'x', stream: true });
    let chunks = 0;
    const read = async () => {
      for await (const _ of stream) chunks++;
    };
    await expect(read()).rejects.toMatchObject({ message: expect.stringContaining('worker 2 died'), code: 'worker_failed' });
    expect(chunks).toBe(3);
  });

  it('should be tried again by the openai client when overloaded', async () => {
    pod.faults = { fail_at_start: new MinipodError('overloaded', 'full') };
    setTimeout(() => {
      pod.faults = {};
    }, 200);
    expect((await openai.completions.create({ model: 'fake', prompt: 'x', max_tokens: 1 })).choices).toHaveLength(1);
    pod.faults = { fail_at_start: new MinipodError('overloaded', 'full') };
    await expect(openai.completions.create({ model: 'fake', prompt: 'x' }, { maxRetries: 0 })).rejects.toThrow(OpenAI.RateLimitError);
    pod.faults = { fail_at_start: new MinipodError('not_finite', 'NaN') };
    await expect(openai.completions.create({ model: 'fake', prompt: 'x' })).rejects.toThrow(OpenAI.InternalServerError);
  });
});
