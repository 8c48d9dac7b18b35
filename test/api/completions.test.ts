import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import type { Pod } from '../../src/pod.ts';
import { type Answer, type App, ask, askEvents, refusal } from './ask.ts';
import { FakePod } from './fake-pod.ts';
import { closePod, makePod } from './make-pod.ts';

const PATH = '/v1/completions';
const IDS = [72, 101, 108, 108, 111];

describe('completions', () => {
  let pod: Pod;
  let app: App;
  beforeAll(async () => {
    pod = await makePod();
    app = createApp(pod);
  });
  afterAll(() => closePod(pod));

  it('should answer a token-id prompt as the pod does, in full precision', async () => {
    const options = { max_tokens: 24, temperature: 0, ignore_eos: true, logprobs: 3 };
    const answer = await ask(app, PATH, { model: pod.model.name, prompt: IDS, return_token_ids: true, ...options });
    const direct = await pod.complete(IDS, options);
    const choice = direct.choices[0];
    expect(answer.object).toBe('text_completion');
    expect(answer.usage).toMatchObject({ prompt_tokens: 5, completion_tokens: 24, total_tokens: 29 });
    const got = answer.choices[0];
    expect(got.text).toBe(choice?.text);
    expect(got.token_ids).toEqual(choice?.token_ids);
    expect(got.prompt_token_ids).toEqual(IDS);
    expect(answer.prompt_token_ids).toEqual(IDS);
    expect(got.finish_reason).toBe('length');
    expect(got.stop_reason).toBeNull();
    expect(got.logprobs.token_logprobs).toEqual(choice?.logprobs?.map((one) => one.logprob));
    expect(got.logprobs.tokens).toHaveLength(24);
    expect(Object.keys(got.logprobs.top_logprobs[0]).length).toBeGreaterThanOrEqual(3);
  });

  it('should generate 16 tokens by default', async () => {
    expect((await ask(app, PATH, { prompt: IDS, ignore_eos: true })).usage.completion_tokens).toBe(16);
  });

  it('should stream what it would answer at once', async () => {
    const body = { prompt: IDS, max_tokens: 24, temperature: 0, ignore_eos: true, logprobs: 2, n: 2, echo: true, return_token_ids: true };
    const whole = await ask(app, PATH, body);
    const events = await askEvents(app, PATH, { ...body, stream_options: { include_usage: true } });
    expect(events.at(-1)).toBe('[DONE]');
    expect(events.at(-2)).toMatchObject({ choices: [], usage: whole.usage });
    const chunks = events.slice(0, -2);
    expect(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created}`)).size).toBe(1);
    expect(chunks.every((chunk) => chunk.usage === null)).toBe(true);
    for (const choice of whole.choices) {
      const own = chunks.map((chunk) => chunk.choices[0]).filter((one: Answer) => one.index === choice.index);
      expect(own.map((one: Answer) => one.text).join('')).toBe(choice.text);
      expect(own.flatMap((one: Answer) => one.token_ids)).toEqual(choice.token_ids);
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'])
        expect(own.flatMap((one: Answer) => one.logprobs[key])).toEqual(choice.logprobs[key]);
      expect(own.map((one: Answer) => one.finish_reason).filter((reason: unknown) => reason !== null)).toEqual([choice.finish_reason]);
    }
  });

  it('should answer several prompts as each alone, in order', async () => {
    const prompts = ['one', 'two', 'three'];
    const body = { max_tokens: 6, temperature: 0, n: 2 };
    const together = await ask(app, PATH, { ...body, prompt: prompts });
    expect(together.choices.map((choice: Answer) => choice.index)).toEqual([0, 1, 2, 3, 4, 5]);
    const alone = await Promise.all(prompts.map((prompt) => ask(app, PATH, { ...body, prompt })));
    expect(together.choices.map((choice: Answer) => choice.text)).toEqual(alone.flatMap((answer) => answer.choices.map((choice: Answer) => choice.text)));
    expect(together.usage.total_tokens).toBe(alone.reduce((sum, answer) => sum + answer.usage.total_tokens, 0));
    const ids = await ask(app, PATH, { ...body, prompt: [IDS, [65]], return_token_ids: true });
    expect(ids.choices.map((choice: Answer) => choice.prompt_token_ids)).toEqual([IDS, IDS, [65], [65]]);
  });

  it('should echo the prompt alone when max_tokens is 0, with its logprobs', async () => {
    const answer = await ask(app, PATH, { prompt: IDS, max_tokens: 0, echo: true, logprobs: 1, return_token_ids: true });
    const [choice] = answer.choices;
    expect(choice.text).toBe(await pod.detokenize(IDS));
    expect(choice.token_ids).toEqual([]);
    expect(choice.finish_reason).toBe('length');
    expect(choice.logprobs.token_logprobs).toHaveLength(5);
    expect(choice.logprobs.token_logprobs[0]).toBeNull();
    expect(choice.logprobs.top_logprobs[0]).toBeNull();
    expect(choice.logprobs.token_logprobs.slice(1).every((one: unknown) => typeof one === 'number')).toBe(true);
    expect(answer.usage).toMatchObject({ completion_tokens: 0, total_tokens: 5 });
    const events = await askEvents(app, PATH, { prompt: IDS, max_tokens: 0, echo: true, logprobs: 1 });
    expect(events[0].choices[0]).toMatchObject({ text: choice.text, logprobs: choice.logprobs });
  });

  it('should give vLLM prompt_logprobs', async () => {
    const [choice] = (await ask(app, PATH, { prompt: IDS, max_tokens: 1, prompt_logprobs: 2 })).choices;
    expect(choice.prompt_logprobs).toHaveLength(5);
    expect(choice.prompt_logprobs[0]).toBeNull();
    expect(choice.prompt_logprobs[1][101]).toMatchObject({ logprob: expect.any(Number), decoded_token: expect.any(String) });
    expect(choice.logprobs).toBeNull();
  });

  it('should refuse what it does not serve, by name', async () => {
    const cases: [object, string][] = [
      [{ suffix: 'x' }, 'suffix'],
      [{ best_of: 1, n: 2 }, 'best_of'],
      [{ best_of: 3, stream: true }, 'best_of'],
      [{ max_tokens: 0 }, 'max_tokens'],
      [{ temperature: -1 }, 'temperature'],
      [{ temperature: '1' }, 'temperature'],
      [{ top_p: 0 }, 'top_p'],
      [{ logprobs: 21 }, 'logprobs'],
      [{ stop: [1] }, 'stop[0]'],
      [{ n: 0 }, 'n'],
      [{ stream_options: { include_usage: true } }, 'stream_options'],
      [{ stream: true, prompt_logprobs: 1 }, 'prompt_logprobs'],
      [{ prompt: [1, -1] }, 'prompt[1]'],
      [{ prompt: [[1], []] }, 'prompt[1]'],
      [{ prompt: [pod.model.vocab_size] }, 'prompt[0]'],
      [{ prompt: [] }, 'prompt'],
      [{ prompt: 5 }, 'prompt'],
      [{ response_format: { type: 'json_object' } }, 'response_format'],
      [{ guided_regex: 'a*' }, 'guided_regex'],
      [{ min_tokens: 9, max_tokens: 8 }, 'min_tokens'],
      [{ logit_bias: { 999999999: 1 } }, 'logit_bias.999999999'],
    ];
    for (const [body, param] of cases)
      expect({ body, ...(await refusal(app, PATH, { prompt: 'x', ...body })) }).toMatchObject({ body, status: 400, type: 'invalid_request_error', param });
    expect((await refusal(app, PATH, { max_tokens: 1 })).message).toContain('prompt: is required');
    expect(await refusal(app, PATH, { prompt: 'x', model: 'gpt-9' })).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' });
    const long = new Array(pod.model.context_length + 1).fill(1);
    expect(await refusal(app, PATH, { prompt: long })).toMatchObject({ status: 400, code: 'context_length_exceeded', type: 'invalid_request_error' });
  });

  it('should refuse more prompts and choices than the pod ever takes in at once, and not say that there will be room', async () => {
    const small = new FakePod();
    small.max_queued = 20;
    const own = createApp(small);
    expect(await refusal(own, PATH, { prompt: ['a', 'b', 'c'], n: 7, max_tokens: 3 })).toMatchObject({
      status: 400,
      param: 'prompt',
      message: 'prompt: 3 prompts × 7 choices are more than the pod takes in at once, 20 (max_queued)',
    });
    expect((await ask(own, PATH, { prompt: ['a', 'b'], n: 10, max_tokens: 3 })).choices).toHaveLength(20);
  });

  it('should take null for an optional field as absent and ignore what it does not know', async () => {
    const nulls = {
      model: null,
      max_tokens: null,
      stop: null,
      seed: null,
      logprobs: null,
      stream_options: null,
      suffix: null,
      logit_bias: null,
      best_of: null,
      user: null,
    };
    expect((await ask(app, PATH, { prompt: 'x', ...nulls, temperature: 0, something_new: { a: [1] }, suffix: '' })).choices[0].logprobs).toBeNull();
  });
});

describe('completions of the fake pod', () => {
  const pod = new FakePod();
  const app = createApp(pod);

  it('should default to what the context leaves where that is less than 16', async () => {
    expect((await ask(app, PATH, { prompt: new Array(508).fill(65), ignore_eos: true })).usage.completion_tokens).toBe(4);
    expect((await ask(app, PATH, { prompt: 'A'.repeat(507), ignore_eos: true })).usage.completion_tokens).toBe(4);
  });

  it('should return the likeliest of best_of choices', async () => {
    const all = await pod.complete('x', { n: 6, max_tokens: 5, logprobs: 0, seed: 3, ignore_eos: true });
    const mean = (choice: (typeof all.choices)[number]) => (choice.logprobs ?? []).reduce((sum, one) => sum + one.logprob, 0);
    const best = [...all.choices].sort((a, b) => mean(b) - mean(a)).slice(0, 2);
    const answer = await ask(app, PATH, { prompt: 'x', n: 2, best_of: 6, max_tokens: 5, seed: 3, ignore_eos: true });
    expect(answer.choices.map((choice: Answer) => choice.text)).toEqual(best.map((choice) => choice.text));
    expect(answer.choices.map((choice: Answer) => choice.index)).toEqual([0, 1]);
    expect(answer.choices[0].logprobs).toBeNull();
    expect(answer.usage.completion_tokens).toBe(30);
  });

  it('should name tokens that are part of a character by their bytes, and place every token in the text', async () => {
    const answer = await ask(app, PATH, { prompt: 'hé', max_tokens: 60, temperature: 0, ignore_eos: true, logprobs: 0, echo: true, logit_bias: {} });
    const { text, logprobs } = answer.choices[0];
    expect(logprobs.tokens).toContain('bytes:\\xc3');
    expect(logprobs.tokens.slice(0, 4)).toEqual(['', 'h', 'bytes:\\xc3', 'bytes:\\xa9']);
    expect(logprobs.text_offset.slice(0, 5)).toEqual([0, 0, 1, 1, 2]);
    const characters = [...text];
    logprobs.tokens.forEach((token: string, index: number) => {
      if (token.length === 1) expect(characters[logprobs.text_offset[index]]).toBe(token);
    });
  });

  it('should say which stop string or token ended a choice', async () => {
    const free = await pod.complete('abc', { temperature: 0, max_tokens: 40, ignore_eos: true });
    const stop = free.choices[0]?.text.slice(5, 7) ?? '';
    const answer = await ask(app, PATH, { prompt: 'abc', temperature: 0, max_tokens: 40, ignore_eos: true, stop });
    expect(answer.choices[0]).toMatchObject({ finish_reason: 'stop', stop_reason: stop });
    const id = free.choices[0]?.token_ids[3] ?? 0;
    const byToken = await ask(app, PATH, { prompt: 'abc', temperature: 0, max_tokens: 40, ignore_eos: true, stop_token_ids: [id] });
    expect(byToken.choices[0]).toMatchObject({ finish_reason: 'stop', stop_reason: id });
  });

  it('should call tokens by id where asked to', async () => {
    const { tokens } = (await ask(app, PATH, { prompt: [65, 66], echo: true, max_tokens: 0, logprobs: 0, return_tokens_as_token_ids: true })).choices[0]
      .logprobs;
    expect(tokens).toEqual(['token_id:65', 'token_id:66']);
  });
});
