import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { runs } from '../property-runs.ts';
import { post } from './ask.ts';
import { FakePod } from './fake-pod.ts';

const RUNS = 1_000;
const nest = (depth: number, inner = '1'): string => '['.repeat(depth) + inner + ']'.repeat(depth);
const text = fc.string({ unit: 'grapheme', maxLength: 20 });

/** Valid bodies, and for each route's field what it must not be. */
const valid: Record<string, fc.Arbitrary<Record<string, unknown>>> = {
  '/v1/completions': fc.record(
    {
      prompt: fc.oneof(
        text,
        fc.array(text, { minLength: 1, maxLength: 3 }),
        fc.array(fc.nat(257), { minLength: 1, maxLength: 8 }),
        fc.array(fc.array(fc.nat(257), { minLength: 1 }), { minLength: 1, maxLength: 3 }),
      ),
      max_tokens: fc.integer({ min: 1, max: 4 }),
      temperature: fc.double({ min: 0, max: 2, noNaN: true }),
      logprobs: fc.oneof(fc.constant(null), fc.integer({ min: 0, max: 20 })),
      echo: fc.boolean(),
      seed: fc.integer(),
      stop: fc.oneof(fc.constant(null), fc.string({ minLength: 1 })),
    },
    { requiredKeys: ['prompt', 'max_tokens'] },
  ),
  '/v1/chat/completions': fc.record(
    {
      messages: fc.array(fc.record({ role: fc.constantFrom('system', 'user', 'assistant'), content: text }), { minLength: 1, maxLength: 3 }),
      max_tokens: fc.integer({ min: 1, max: 4 }),
      top_p: fc.double({ min: 0.01, max: 1, noNaN: true }),
      logprobs: fc.boolean(),
      n: fc.integer({ min: 1, max: 3 }),
    },
    { requiredKeys: ['messages', 'max_tokens'] },
  ),
  '/tokenize': fc.record({ prompt: text }),
  '/detokenize': fc.record({ tokens: fc.array(fc.nat(257)) }),
};

const wrongNumber = fc.constantFrom<unknown>('1', true, [], {}, -1e308, 1e308, -1000.5);
const wrongFields: Record<string, Record<string, fc.Arbitrary<unknown>>> = {
  '/v1/completions': {
    prompt: fc.constantFrom<unknown>(null, 1, true, {}, [], [[]], [1, 'a'], ['a', 1], [-1], [1.5], [258], [[1], 'a'], [[1e300]], [null], [{}]),
    max_tokens: fc.oneof(wrongNumber, fc.constantFrom(-1, 1.5, 2 ** 60)),
    temperature: wrongNumber,
    top_k: wrongNumber,
    seed: fc.oneof(wrongNumber, fc.constant(2 ** 60)),
    logprobs: fc.oneof(wrongNumber, fc.constant(21)),
    stop: fc.constantFrom<unknown>(1, [''], '', [[]], {}, new Array(17).fill('a')),
    logit_bias: fc.constantFrom<unknown>({ a: 1 }, { 1: 101 }, { 1: 'x' }, 1, 'x', [1]),
    stream: fc.constantFrom<unknown>('true', 1, {}, []),
    echo: fc.constantFrom<unknown>('true', 1),
    suffix: fc.constant('x'),
    n: fc.oneof(wrongNumber, fc.constantFrom(0, 129)),
    model: fc.constantFrom<unknown>(1, [], 'other'),
    user: fc.constantFrom<unknown>(1, []),
  },
  '/v1/chat/completions': {
    messages: fc.constantFrom<unknown>(
      null,
      [],
      'x',
      {},
      [1],
      [null],
      [{}],
      [{ role: 'user' }],
      [{ content: 'x' }],
      [{ role: 'king', content: 'x' }],
      [{ role: 'user', content: [1] }],
      [{ role: 'user', content: [{ type: 'image_url' }] }],
    ),
    logprobs: fc.constantFrom<unknown>(1, 'true'),
    top_logprobs: fc.constantFrom<unknown>(-1, 21, '1'),
    tools: fc.constantFrom<unknown>([{}], 'x', 1),
    response_format: fc.constantFrom<unknown>({ type: 'json_object' }, 'text', 1),
  },
  '/tokenize': { prompt: fc.constantFrom<unknown>(null, 1, [], {}), return_token_strs: fc.constantFrom<unknown>(1, 'x') },
  '/detokenize': { tokens: fc.constantFrom<unknown>(null, 1, 'x', [-1], [258], ['a'], [1e300], [[1]]) },
};

const paths = Object.keys(valid);

/** Something wrong in a place where it stays wrong whatever else the body says. */
const malformed = fc.constantFrom(...paths).chain((path) => {
  const good = valid[path] ?? fc.constant({});
  const fields = wrongFields[path] ?? {};
  const oneField = fc
    .constantFrom(...Object.keys(fields))
    .chain((field) => fc.tuple(good, fields[field] ?? fc.constant(null)).map(([body, wrong]) => JSON.stringify({ ...body, [field]: wrong })));
  const added = (json: string) => good.map((body) => `${JSON.stringify(body).slice(0, -1)},${json}}`);
  return fc.tuple(
    fc.constant(path),
    fc.oneof(
      { weight: 4, arbitrary: oneField },
      // Broken JSON: cut short or followed by more.
      fc.tuple(good, fc.nat()).map(([body, at]) => JSON.stringify(body).slice(0, at % JSON.stringify(body).length)),
      fc.tuple(good, fc.constantFrom('x', '{}', ',', ']')).map(([body, tail]) => JSON.stringify(body) + tail),
      // JSON, but no object.
      fc.oneof(
        fc.json().filter((json) => !json.startsWith('{')),
        fc.constantFrom('null', '1', '"x"', '[]', 'NaN', 'undefined', ''),
      ),
      // Sound fields beside something that no field may hold.
      fc.integer({ min: 64, max: 50_000 }).chain((depth) => added(`"extra":${nest(depth)}`)),
      fc.constantFrom('"extra":1e999', '"seed":-1e999', '"extra":[{"a":1e400}]').chain(added),
      fc.constantFrom('"extra":"\\ud800"', '"\\udc00":1', '"user":"a\\udfff b"').chain(added),
      fc
        .constantFrom('"__proto__":{"admin":true}', '"constructor":{"prototype":{}}', '"extra":{"__proto__":null}', '"logit_bias":{"prototype":1}')
        .chain(added),
    ),
  );
});

describe('malformed requests', () => {
  const app = createApp(new FakePod());

  it('should not be parsed where they nest too deep, which brackets in a text are not', async () => {
    using parse = vi.spyOn(JSON, 'parse');
    for (const extra of [nest(64), '['.repeat(1_000_000), `"a\\\\",${nest(64)}`, `[${'{"a":'.repeat(64)}`]) {
      const response = await post(app, '/v1/completions', `{"prompt":"x","extra":${extra}}`);
      expect(response.status).toBe(400);
      expect(await response.text()).toContain('nests deeper than 64 levels');
    }
    expect(parse).not.toHaveBeenCalled();
    for (const extra of [nest(63), JSON.stringify('['.repeat(65)), JSON.stringify(`"\\"${'{'.repeat(65)}\\`), `${'[],'.repeat(100).replace(/^/, '[')}1]`])
      expect((await post(app, '/v1/completions', `{"prompt":"x","max_tokens":1,"extra":${extra}}`)).status).toBe(200);
  });

  it(`should get 4xx and an error object each, ${RUNS} of them, and leave the server alive`, async () => {
    await fc.assert(
      fc.asyncProperty(malformed, async ([path, body]) => {
        const response = await post(app, path, body);
        const answer = (await response.json()) as { error: object };
        expect({ status: response.status, answer }).toEqual({
          status: expect.toSatisfy((status: number) => status >= 400 && status < 500),
          answer: {
            error: {
              message: expect.any(String),
              type: 'invalid_request_error',
              param: expect.toSatisfy((param) => param === null || typeof param === 'string'),
              code: expect.toSatisfy((code) => code === null || typeof code === 'string'),
            },
          },
        });
      }),
      { numRuns: RUNS },
    );
    expect((await app.request('/health')).status).toBe(200);
    expect(({} as Record<string, unknown>)['admin']).toBeUndefined();
  }, 60_000);

  it('should not hit requests that are sound', async () => {
    const sound = fc.constantFrom(...paths).chain((path) => fc.tuple(fc.constant(path), valid[path] ?? fc.constant({})));
    await fc.assert(
      fc.asyncProperty(sound, async ([path, body]) => {
        const response = await post(app, path, body);
        expect({ status: response.status, error: response.status === 200 ? null : await response.text() }).toEqual({ status: 200, error: null });
      }),
      { numRuns: runs(300) },
    );
  }, 60_000);

  it('should refuse bytes that are not UTF-8', async () => {
    const body = Uint8Array.of(...new TextEncoder().encode('{"prompt":"'), 0xc3, 0x28, ...new TextEncoder().encode('"}'));
    const response = await app.request('/v1/completions', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    expect(response.status).toBe(400);
  });
});
