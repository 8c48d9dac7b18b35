import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createApp, VERSION } from '../../src/api/index.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { type Answer, ask, post, refusal } from './ask.ts';
import { FakePod } from './fake-pod.ts';

const json = async (response: Response | Promise<Response>): Promise<Answer> => (await response).json();

describe('routes', () => {
  const pod = new FakePod();
  const app = createApp(pod);

  it('should list and retrieve the model', async () => {
    const list = await json(app.request('/v1/models'));
    expect(list).toMatchObject({ object: 'list', data: [{ id: 'fake', object: 'model', created: 1_700_000_000, owned_by: 'minipod', max_model_len: 512 }] });
    expect(await json(app.request('/v1/models/fake'))).toEqual(list.data[0]);
    const other = await app.request('/v1/models/org%2Fother');
    expect(other.status).toBe(404);
    expect((await json(other)).error).toMatchObject({ type: 'invalid_request_error', param: 'model', code: 'model_not_found' });
  });

  it('should tokenize and detokenize', async () => {
    expect(await ask(app, '/tokenize', { prompt: 'hé' })).toEqual({ count: 4, max_model_len: 512, tokens: [256, 104, 0xc3, 0xa9], token_strs: null });
    expect((await ask(app, '/tokenize', { prompt: 'hi', add_special_tokens: false, return_token_strs: true })).token_strs).toEqual(['h', 'i']);
    expect((await ask(app, '/tokenize', { messages: [{ role: 'user', content: 'a' }] })).count).toBe(8);
    expect(await ask(app, '/detokenize', { tokens: [104, 0xc3, 0xa9] })).toEqual({ prompt: 'hé' });
    expect(await refusal(app, '/detokenize', { tokens: [1, 258] })).toMatchObject({ status: 400, param: 'tokens[1]' });
    expect(await refusal(app, '/detokenize', { tokens: new Array(513).fill(104) })).toMatchObject({
      status: 400,
      param: 'tokens',
      code: 'context_length_exceeded',
    });
    expect(await refusal(app, '/tokenize', {})).toMatchObject({ status: 400, param: 'prompt' });
    expect(await refusal(app, '/tokenize', { prompt: 'a', messages: [{ role: 'user', content: 'a' }] })).toMatchObject({ status: 400, param: 'prompt' });
  });

  it('should tell what experts do, with or without timing them', async () => {
    const measured = await json(app.request('/experts'));
    expect(measured).toEqual(JSON.parse(JSON.stringify(await pod.experts())));
    expect(await json(app.request('/experts?measure=false'))).toEqual(JSON.parse(JSON.stringify(await pod.experts({ measure: false }))));
    expect(measured).not.toEqual(await pod.experts({ measure: false }));
    expect((await app.request('/experts?measure=maybe')).status).toBe(400);
  });

  it('should report health and version', async () => {
    expect((await app.request('/health')).status).toBe(200);
    expect(await json(app.request('/version'))).toEqual({ version: JSON.parse(readFileSync('package.json', 'utf8')).version });
    expect(VERSION).toBe('0.1.0');
    const dead = new FakePod();
    await dead.close();
    expect((await createApp(dead).request('/health')).status).toBe(503);
  });

  it('should answer unknown paths with 404 and other methods with 405', async () => {
    for (const path of ['/', '/v1', '/v1/embeddings', '/v1/models/', '/V1/models']) {
      const response = await app.request(path);
      expect(response.status).toBe(404);
      expect(Object.keys((await json(response)).error)).toEqual(['message', 'type', 'param', 'code']);
    }
    const response = await app.request('/v1/completions');
    expect(response.status).toBe(405);
    expect(response.headers.get('allow')).toBe('POST');
    expect((await app.request('/v1/models', { method: 'DELETE' })).status).toBe(405);
  });

  it('should echo x-request-id or make one, on failures too', async () => {
    expect((await app.request('/health', { headers: { 'x-request-id': 'mine-1' } })).headers.get('x-request-id')).toBe('mine-1');
    expect((await app.request('/nowhere', { headers: { 'x-request-id': 'mine-2' } })).headers.get('x-request-id')).toBe('mine-2');
    expect((await post(app, '/v1/completions', '{', { 'x-request-id': 'mine-3' })).headers.get('x-request-id')).toBe('mine-3');
    expect((await app.request('/health', { headers: { 'x-request-id': 'x'.repeat(200) } })).headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/);
    const answer = await json(post(app, '/v1/completions', { prompt: 'x', max_tokens: 1 }, { 'x-request-id': 'mine-4' }));
    expect(answer.id).toBe('cmpl-mine-4');
  });

  it('should ask for the key everywhere but /health and /version', async () => {
    const locked = createApp(pod, { api_key: 'secret' });
    const status = async (path: string, authorization?: string) =>
      (await locked.request(path, authorization === undefined ? {} : { headers: { authorization } })).status;
    expect(await status('/health')).toBe(200);
    expect(await status('/version')).toBe(200);
    for (const path of ['/v1/models', '/metrics', '/nowhere']) expect(await status(path)).toBe(401);
    for (const wrong of ['secret', 'Bearer', 'Bearer ', 'Bearer secre', 'Bearer secret2', 'Bearer tecret', 'Bearer secretsecret', 'Basic secret'])
      expect(await status('/v1/models', wrong)).toBe(401);
    expect(await status('/v1/models', 'Bearer secret')).toBe(200);
    expect(await status('/v1/models', 'bearer secret')).toBe(200);
    const refused = await locked.request('/v1/models');
    expect((await json(refused)).error).toMatchObject({ type: 'authentication_error', code: 'invalid_api_key', param: null });
  });

  it('should refuse bodies that are too large, announced or not, and those that are not JSON', async () => {
    const small = createApp(pod, { body_limit_bytes: 100 });
    const big = JSON.stringify({ prompt: 'x'.repeat(200) });
    const headers = { 'content-type': 'application/json' };
    const announced = await small.request('/v1/completions', { method: 'POST', headers: { ...headers, 'content-length': String(big.length) }, body: big });
    expect(announced.status).toBe(413);
    const streamed = new Blob([big]).stream();
    const init: RequestInit & { duplex: 'half' } = { method: 'POST', headers, body: streamed, duplex: 'half' };
    expect((await small.request('/v1/completions', init)).status).toBe(413);
    expect((await small.request('/v1/completions', { method: 'POST', headers, body: '{"prompt":"x","max_tokens":1}' })).status).toBe(200);
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=latin1', ''])
      expect((await post(app, '/v1/completions', { prompt: 'x' }, { 'content-type': type })).status).toBe(415);
    expect((await post(app, '/v1/completions', { prompt: 'x', max_tokens: 1 }, { 'content-type': 'application/json; charset=UTF-8' })).status).toBe(200);
  });

  it('should refuse more than `concurrency` at once with 429 and say when to retry', async () => {
    const slow = createApp(new FakePod({ delay_ms: 100 }), { concurrency: 1 });
    const first = post(slow, '/v1/completions', { prompt: 'x', max_tokens: 1 });
    const second = await post(slow, '/v1/completions', { prompt: 'x', max_tokens: 1 });
    expect(second.status).toBe(429);
    expect((await json(second)).error.type).toBe('rate_limit_error');
    expect(second.headers.get('retry-after-ms')).toBe('500');
    expect(second.headers.get('retry-after')).toBe('1');
    expect(second.headers.get('x-should-retry')).toBe('true');
    expect((await first).status).toBe(200);
    const streamed = await post(slow, '/v1/completions', { prompt: 'x', max_tokens: 2, stream: true });
    expect((await post(slow, '/v1/completions', { prompt: 'x', max_tokens: 1 })).status).toBe(429);
    await streamed.text();
    expect((await post(slow, '/v1/completions', { prompt: 'x', max_tokens: 1 })).status).toBe(200);
  });

  it('should pass on when the pod will have room, and that a deadline of the client itself is no matter of trying again', async () => {
    const answer = (error: MinipodError): Promise<Response> =>
      post(createApp(new FakePod({ fail_at_start: error }), { onError: () => {} }), '/v1/completions', { prompt: 'x' });
    const full = await answer(new MinipodError('overloaded', 'full', { retry_after_ms: 3_400 }));
    expect([full.status, full.headers.get('retry-after'), full.headers.get('retry-after-ms')]).toEqual([429, '4', '3400']);
    const late = await answer(new MinipodError('deadline_exceeded', 'late', { param: 'deadline_ms' }));
    expect([late.status, late.headers.get('x-should-retry')]).toEqual([504, 'false']);
  });

  it("should give each of the pod's errors its status and retry advice", async () => {
    const cases = [
      ['invalid_request', 400, 'invalid_request_error', null, null],
      ['context_length_exceeded', 400, 'invalid_request_error', 'context_length_exceeded', null],
      ['overloaded', 429, 'rate_limit_error', 'overloaded', 'true'],
      ['worker_failed', 500, 'server_error', 'worker_failed', 'true'],
      ['deadline_exceeded', 503, 'server_error', 'deadline_exceeded', 'true'],
      ['not_finite', 500, 'server_error', 'not_finite', 'false'],
      ['closed', 503, 'server_error', 'closed', 'true'],
      ['internal', 500, 'server_error', 'internal', null],
    ] as const;
    for (const [code, status, type, apiCode, retry] of cases)
      for (const stream of [false, true]) {
        const failing = createApp(new FakePod({ fail_at_start: new MinipodError(code, `it was ${code}`) }), { onError: () => {} });
        const response = await post(failing, '/v1/completions', { prompt: 'x', stream });
        expect({ code, status: response.status }).toEqual({ code, status });
        expect(response.headers.get('x-should-retry')).toBe(retry);
        expect((await json(response)).error).toEqual({ message: `it was ${code}`, type, param: null, code: apiCode });
      }
  });

  it('should not tell strangers what broke inside, but its operator', async () => {
    const seen: unknown[] = [];
    const failing = createApp(new FakePod({ fail_at_start: new Error('/home/me/secret') }), { onError: (error, id) => seen.push(error, id) });
    const response = await post(failing, '/v1/completions', { prompt: 'x' }, { 'x-request-id': 'r1' });
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain('secret');
    expect(seen).toEqual([expect.objectContaining({ message: '/home/me/secret' }), 'r1']);
  });

  it('should end a stream that fails after its start with an error event', async () => {
    const failing = createApp(new FakePod({ fail_after: { chunks: 2, error: new MinipodError('worker_failed', 'worker 1 died') } }), { onError: () => {} });
    for (const [path, body] of [
      ['/v1/completions', { prompt: 'x' }],
      ['/v1/chat/completions', { messages: [{ role: 'user', content: 'x' }] }],
    ] as const) {
      const response = await post(failing, path, { ...body, stream: true });
      expect(response.status).toBe(200);
      const text = await response.text();
      expect(text.endsWith('data: {"error":{"message":"worker 1 died","type":"server_error","param":null,"code":"worker_failed"}}\n\n')).toBe(true);
      expect(text).not.toContain('[DONE]');
    }
  });

  it('should end all prompts of a request when one fails, though another hangs', async () => {
    const pod = new FakePod();
    const generate = pod.generate.bind(pod);
    pod.generate = (prompt, options) => {
      pod.faults = prompt === 'bad' ? { fail_after: { chunks: 3, error: new MinipodError('worker_failed', 'gone') } } : { delay_ms: 60_000 };
      return generate(prompt, options);
    };
    const response = await post(createApp(pod, { onError: () => {} }), '/v1/completions', { prompt: ['slow', 'bad'], max_tokens: 50 });
    expect(response.status).toBe(500);
    await expect.poll(() => pod.running).toBe(0);
    expect(pod.cancelled).toBe(1);
  });
});
