import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod, type Pod } from '../../src/index.ts';

const HASH = { clock: 'virtual', kernels: 'hash' } as const;
const refused = (param: string, message: RegExp) => ({ code: 'invalid_request', param, message: expect.stringMatching(message) });
const circle: Record<string, unknown> = { role: 'user', content: 'x' };
circle['me'] = circle;

describe('what is called as no program with types would call it', () => {
  let pod: Pod;
  beforeAll(async () => {
    pod = await createPod(HASH);
  });
  afterAll(() => pod.close());

  it.each([[null], [5], [[]], ['dp=2']])('createPod(%j) is refused', async (options) => {
    await expect(createPod(options as never)).rejects.toMatchObject(refused('createPod', /createPod: the options must be an object, not/));
  });

  it.each([
    ['a gap', new Array(2), 'messages.0', /must have role and content/],
    ['half of a character', '\ud800 x', 'prompt', /lone surrogate/],
    ['half of a character in a message', [{ role: 'user', content: 'x\udc00' }], 'messages.0', /lone surrogate/],
    ['a number that JSON has not', [{ role: 'user', content: 'x', big: 5n }], 'messages.0', /cannot be told as JSON: .*BigInt/],
    ['itself', [circle], 'messages.0', /cannot be told as JSON: .*circular/],
    ['variables that are none', { messages: [{ role: 'user', content: 'x' }], chat_template_kwargs: 'abc' }, 'chat_template_kwargs', /must be an object/],
  ])('a prompt with %s is refused', async (_, prompt, param, message) => {
    await expect(pod.complete(prompt as never)).rejects.toMatchObject(refused(param, message));
  });

  it.each([[null], [5], [[]]])('options that are %j are refused', async (options) => {
    const rule = /the options must be an object, not/;
    await expect(pod.complete('x', options as never)).rejects.toMatchObject(refused('complete', rule));
    expect(() => pod.generate('x', options as never)).toThrow(rule);
    await expect(pod.createContext('x', options as never)).rejects.toMatchObject(refused('createContext', rule));
    await expect(pod.listContexts(options as never)).rejects.toMatchObject(refused('listContexts', rule));
  });

  it.each([['abc'], [undefined], [[1.5]]])('detokenize(%j) is refused', async (ids) => {
    await expect(pod.detokenize(ids as never)).rejects.toMatchObject({ code: 'invalid_request', message: expect.stringMatching(/token_ids.*(array|integer)/) });
  });

  it('detokenize of more than a text of the model can have is refused', async () => {
    const { context_length } = pod.model;
    expect(await pod.detokenize(new Array(context_length).fill(70))).not.toBe('');
    const wrong = {
      code: 'context_length_exceeded',
      param: 'token_ids',
      message: expect.stringMatching(new RegExp(`${context_length} .* ${context_length + 1}`)),
    };
    await expect(pod.detokenize(new Array(context_length + 1).fill(70))).rejects.toMatchObject(wrong);
  });

  it.each([
    [0, -3, 'from'],
    [0, 1.5, 'from'],
    [0, Number.NaN, 'from'],
    ['0', 0, 'dp_group'],
    [0.5, 0, 'dp_group'],
  ])('kvEvents(%j, %j) is refused', async (dp_group, from, param) => {
    await expect(pod.kvEvents(dp_group as never, from)).rejects.toMatchObject(refused(param, /^kvEvents: .* must be/));
  });

  it('a salt that UTF-8 would make one with another is refused', async () => {
    const salt = { cache_salt: '\ud800' };
    for (const asked of [pod.complete('x', salt), pod.createContext('x', salt), pod.listContexts(salt), pod.deleteContext('x', salt)])
      await expect(asked).rejects.toMatchObject(refused('cache_salt', /lone surrogate/));
  });

  it('a generation that is left before its first chunk is cancelled', async () => {
    const generation = pod.generate('x', { max_tokens: 500, ignore_eos: true });
    await generation[Symbol.asyncIterator]().return?.();
    while (generation.times().finished === 0) await sleep(1);
    expect(generation.usage().completion_tokens).toBeLessThan(500);
  });
});
