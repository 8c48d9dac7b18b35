import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { createPod, type Pod } from '../../src/index.ts';
import { type Answer, type App, ask, post, refusal } from './ask.ts';

/** Three KV blocks and a little more. */
const BOOK = Array.from({ length: 50 }, (_, at) => [1, 86, 1461, 613, 265][at % 5] as number);

describe('/v1/contexts', () => {
  let pod: Pod;
  let app: App;
  beforeAll(async () => {
    pod = await createPod({ clock: 'virtual', kernels: 'hash' });
    app = createApp(pod, { onError: () => {} });
  });
  afterAll(() => pod.close());

  const send = async (method: string, path: string): Promise<{ status: number; answer: Answer }> => {
    const response = await app.request(path, { method });
    return { status: response.status, answer: (await response.json()) as Answer };
  };

  it('should keep a prompt that requests go on from, until it is deleted', async () => {
    const made = await ask(app, '/v1/contexts', { prompt: BOOK, id: 'book', ttl_seconds: 60 });
    expect(made).toEqual({ id: 'book', object: 'context', created: made.created, expires_at: made.created + 61, model: pod.model.name, tokens: 50 });
    expect(await send('GET', '/v1/contexts')).toEqual({ status: 200, answer: { object: 'list', data: [made] } });
    expect(await send('GET', '/v1/contexts/book')).toEqual({ status: 200, answer: made });

    const options = { max_tokens: 5, seed: 3, ignore_eos: true, return_token_ids: true };
    const onward = await ask(app, '/v1/completions', { ...options, prompt: [504, 454], context_id: 'book' });
    const whole = await ask(app, '/v1/completions', { ...options, prompt: [...BOOK, 504, 454], cache_salt: 'cold' });
    expect(onward.choices).toEqual(whole.choices);
    expect(onward.usage).toMatchObject({ prompt_tokens: 52, prompt_tokens_details: { cached_tokens: 48 } });
    expect(whole.usage.prompt_tokens_details.cached_tokens).toBe(0);
    expect((await ask(app, '/v1/completions', { ...options, context_id: 'book' })).usage.prompt_tokens).toBe(50);

    expect(await send('DELETE', '/v1/contexts/book')).toEqual({ status: 200, answer: { id: 'book', object: 'context', deleted: true } });
    const { status, param, code, message } = await refusal(app, '/v1/completions', { ...options, prompt: [504], context_id: 'book' });
    expect([status, param, code]).toEqual([404, 'context_id', 'context_not_found']);
    for (const method of ['GET', 'DELETE'])
      expect(await send(method, '/v1/contexts/book')).toMatchObject({ status: 404, answer: { error: { param, code, message } } });
  });

  it('should be found by those of their salt alone', async () => {
    await ask(app, '/v1/contexts', { prompt: BOOK, id: 'mine', cache_salt: 'a/b' });
    const ids = async (query: string) => (await send('GET', `/v1/contexts${query}`)).answer.data.map((context: Answer) => context.id);
    expect([await ids(''), await ids('?cache_salt=a%2Fb')]).toEqual([[], ['mine']]);
    const statuses = async (query: string) => [
      (await send('GET', `/v1/contexts/mine${query}`)).status,
      (await send('DELETE', `/v1/contexts/mine${query}`)).status,
    ];
    expect([await statuses(''), await statuses('?cache_salt=a%2Fb')]).toEqual([
      [404, 404],
      [200, 200],
    ]);
  });

  it('should keep nothing for a client that goes away before it is there', async () => {
    const client = new AbortController();
    const body = JSON.stringify({ prompt: BOOK, id: 'gone' });
    const asked = app.request('/v1/contexts', { method: 'POST', body, headers: { 'content-type': 'application/json' }, signal: client.signal });
    client.abort();
    await asked;
    expect((await send('GET', '/v1/contexts')).answer.data).toEqual([]);
    expect(await ask(app, '/v1/contexts', { prompt: BOOK, id: 'gone' })).toMatchObject({ id: 'gone', tokens: 50 });
    await pod.deleteContext('gone');
  });

  it('should keep a conversation that chats go on from', async () => {
    const [system, question] = [
      { role: 'system', content: 'You tell short tales.' },
      { role: 'user', content: 'Tell me one.' },
    ];
    const { id } = await ask(app, '/v1/contexts', { messages: [system] });
    const options = { max_tokens: 5, seed: 3, return_token_ids: true };
    const onward = await ask(app, '/v1/chat/completions', { ...options, messages: [question], context_id: id });
    const whole = await ask(app, '/v1/chat/completions', { ...options, messages: [system, question], cache_salt: 'cold' });
    expect([onward.prompt_token_ids, onward.choices]).toEqual([whole.prompt_token_ids, whole.choices]);
    await send('DELETE', `/v1/contexts/${id}`);
  });

  it('should generate by default what the context leaves room for', async () => {
    const { id } = await ask(app, '/v1/contexts', { prompt: Array.from({ length: pod.model.context_length - 10 }, (_, at) => at % 50) });
    const { usage } = await ask(app, '/v1/completions', { prompt: [7, 8], context_id: id, ignore_eos: true });
    expect(usage.completion_tokens).toBe(8);
    await send('DELETE', `/v1/contexts/${id}`);
  });

  it('should say what is wrong', async () => {
    const wrong = async (body: object) => refusal(app, '/v1/contexts', body);
    expect(await wrong({})).toMatchObject({ status: 400, param: 'prompt', message: 'prompt: either prompt or messages must be given, and not both' });
    expect(await wrong({ prompt: ['a', 'b'] })).toMatchObject({ status: 400, param: 'prompt', message: expect.stringContaining('must be one prompt') });
    expect(await wrong({ prompt: [] })).toMatchObject({ status: 400, param: 'prompt' });
    for (const id of ['a/b', '.', '..']) expect(await wrong({ prompt: 'a', id })).toMatchObject({ status: 400, param: 'id' });
    expect(await wrong({ prompt: 'a', ttl_seconds: 0 })).toMatchObject({ status: 400, param: 'ttl_seconds' });
    for (const field of [{ tools: [{ type: 'function', function: { name: 'f' } }] }, { chat_template_kwargs: { a: 1 } }])
      expect(await wrong({ prompt: 'a', ...field })).toMatchObject({ status: 400, param: Object.keys(field)[0] });
    const unknown =
      'expires_s: there is no such field; there are model, prompt, messages, tools, chat_template_kwargs, id, ttl_seconds, cache_salt, add_special_tokens';
    expect(await wrong({ prompt: 'a', expires_s: 60 })).toMatchObject({ status: 400, param: 'expires_s', message: unknown });
    expect(await wrong({ prompt: 'a', model: 'other' })).toMatchObject({ status: 404, code: 'model_not_found' });
    expect(await refusal(app, '/v1/completions', { prompt: 'a', context_id: 'x', echo: true })).toMatchObject({ status: 400, param: 'echo' });
    expect((await send('PUT', '/v1/contexts')).status).toBe(405);
    const put = await app.request('/v1/contexts/x', { method: 'PUT' });
    expect([put.status, put.headers.get('allow')]).toEqual([405, 'GET, DELETE']);
    await ask(app, '/v1/contexts', { prompt: 'a', id: 'taken' });
    expect(await wrong({ prompt: 'a', id: 'taken' })).toMatchObject({ status: 400, param: 'id' });
    expect((await post(app, '/v1/contexts', 'no JSON')).status).toBe(400);
  });
});
