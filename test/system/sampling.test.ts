/** What sampling options mean to a caller, through a real pod. Greedy wherever the sampler is not the point: its text is known. */
import { describe, expect, it } from 'vitest';
import { casesOf } from '../golden/goldens.ts';
import { sharedPod } from './pods.ts';

const pod = sharedPod({ npus: 2 });
const PROMPT = 'Once upon a time there was a king who had';
const GREEDY = { temperature: 0, ignore_eos: true } as const;
const EOS = [6, 2];

const reference = async (max_tokens = 40) => {
  const { choices } = await pod().complete(PROMPT, { ...GREEDY, max_tokens });
  return choices[0] ?? expect.fail('one choice');
};

describe('stop strings', () => {
  it('end the text before their first appearance, whatever tokens they lie across', async () => {
    const { text } = await reference();
    for (const [from, to] of [
      [3, 7],
      [11, 12],
      [9, 30],
      [0, 2],
      [20, 45],
    ] as const) {
      const stop = text.slice(from, to);
      const { choices } = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, stop });
      expect(choices[0], stop).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: 'stop', stop_reason: stop });
    }
  });

  it('the first of several wins, and text that only begins one is shown in the end', async () => {
    const { text } = await reference();
    const { choices } = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, stop: [text.slice(30, 35), `${text.slice(10, 14)}#`, text.slice(18, 21)] });
    const at = Math.min(text.indexOf(text.slice(30, 35)), text.indexOf(text.slice(18, 21)));
    expect(choices[0]?.text).toBe(text.slice(0, at));
    const whole = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, stop: [`${text.slice(-6)}#`, `${text.slice(5, 9)}#`] });
    expect(whole.choices[0]).toMatchObject({ text, finish_reason: 'length', stop_reason: null });
  });

  it('no chunk ever shows text that belongs to one', async () => {
    const { text } = await reference();
    const stop = text.slice(14, 26);
    let shown = '';
    for await (const chunk of pod().generate(PROMPT, { ...GREEDY, max_tokens: 40, stop })) {
      shown += chunk.text;
      expect(text.slice(0, text.indexOf(stop)).startsWith(shown)).toBe(true);
    }
    expect(shown).toBe(text.slice(0, text.indexOf(stop)));
  });

  it('stop each choice by itself', async () => {
    const options = { seed: 11, n: 6, max_tokens: 40, ignore_eos: true } as const;
    const free = await pod().complete(PROMPT, options);
    const stopped = await pod().complete(PROMPT, { ...options, stop: ['a'] });
    for (const [index, { text }] of free.choices.entries()) {
      const at = text.indexOf('a');
      expect(stopped.choices[index]?.text).toBe(at < 0 ? text : text.slice(0, at));
      expect(stopped.choices[index]?.finish_reason).toBe(at < 0 ? 'length' : 'stop');
    }
  });
});

describe('ends', () => {
  it('max_tokens ends with length after exactly so many tokens, down to one', async () => {
    for (const max_tokens of [1, 2, 17]) {
      const { choices, usage } = await pod().complete(PROMPT, { ...GREEDY, max_tokens });
      expect(choices[0]).toMatchObject({ finish_reason: 'length', stop_reason: null });
      expect(choices[0]?.token_ids.length).toBe(max_tokens);
      expect(usage).toEqual({ prompt_tokens: 12, completion_tokens: max_tokens, total_tokens: 12 + max_tokens, cached_tokens: 0 });
    }
  });

  it('an end-of-sequence token ends with stop and is no part of the text; ignore_eos goes on past it', async () => {
    const forced = { temperature: 0, logit_bias: { '6': 100 }, max_tokens: 5 } as const;
    expect((await pod().complete(PROMPT, forced)).choices[0]).toMatchObject({ text: '', token_ids: [6], finish_reason: 'stop', stop_reason: null });
    expect((await pod().complete(PROMPT, { ...forced, ignore_eos: true })).choices[0]).toMatchObject({ token_ids: [6, 6, 6, 6, 6], finish_reason: 'length' });
  });

  it('stop_token_ids end with stop and name the token', async () => {
    const { token_ids, text } = await reference();
    const token = token_ids[9] as number;
    const { choices } = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, stop_token_ids: [token] });
    expect(choices[0]).toMatchObject({ finish_reason: 'stop', stop_reason: token, token_ids: token_ids.slice(0, token_ids.indexOf(token) + 1) });
    expect(text.startsWith(choices[0]?.text ?? '?')).toBe(true);
  });

  it('min_tokens keeps ends, stop tokens and stop strings away until then', async () => {
    const forced = { temperature: 0, logit_bias: { '6': 100, '2': 90 }, max_tokens: 12 } as const;
    const { choices } = await pod().complete(PROMPT, { ...forced, min_tokens: 7 });
    expect(choices[0]?.token_ids.length).toBe(8);
    expect(choices[0]?.token_ids.slice(0, 7).some((id) => EOS.includes(id))).toBe(false);
    const { text } = await reference();
    const early = text.slice(1, 3);
    const stopped = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, stop: early, min_tokens: 6 });
    expect(stopped.choices[0]?.token_ids.length ?? 0).toBeGreaterThan(6);
  });
});

describe('logits', () => {
  it('logit_bias −100 bans a token, +100 forces it', async () => {
    const { token_ids } = await reference(1);
    const first = token_ids[0] as number;
    const banned = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 1, logit_bias: { [first]: -100 } });
    expect(banned.choices[0]?.token_ids[0]).not.toBe(first);
    const forced = await pod().complete(PROMPT, { temperature: 1, seed: 3, ignore_eos: true, max_tokens: 6, logit_bias: { '1000': 100 } });
    expect(forced.choices[0]?.token_ids).toEqual([1000, 1000, 1000, 1000, 1000, 1000]);
  });

  it('penalties count output tokens, not the prompt', async () => {
    const strong = { ...GREEDY, max_tokens: 24, presence_penalty: 2, frequency_penalty: 2, repetition_penalty: 10 } as const;
    const { token_ids } = await reference(1);
    const first = token_ids[0] as number;
    // The token that comes next stands in the prompt already: were the prompt counted, it would not come.
    const bos = (await pod().tokenize('')).token_ids;
    const prompt = [...bos, first, ...(await pod().tokenize(PROMPT)).token_ids];
    const plain = await pod().complete(prompt, { ...GREEDY, max_tokens: 1 });
    const penalised = await pod().complete(prompt, strong);
    expect(penalised.choices[0]?.token_ids[0]).toBe(plain.choices[0]?.token_ids[0]);
    const ids = penalised.choices[0]?.token_ids ?? [];
    expect(new Set(ids).size).toBeGreaterThan(ids.length - 3);
  });

  it('temperature 0 is greedy whatever the seed; top_k 1 and a tiny top_p are greedy too', async () => {
    const { token_ids } = await reference(16);
    for (const options of [{ seed: 5 }, { seed: 6 }])
      expect((await pod().complete(PROMPT, { ...GREEDY, ...options, max_tokens: 16 })).choices[0]?.token_ids).toEqual(token_ids);
    for (const options of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }])
      expect(
        (await pod().complete(PROMPT, { temperature: 1, seed: 4, ignore_eos: true, ...options, max_tokens: 16 })).choices[0]?.token_ids,
        JSON.stringify(options),
      ).toEqual(token_ids);
  });
});

describe('seeds', () => {
  const options = { max_tokens: 24, ignore_eos: true } as const;
  const ids = async (seed?: number) => {
    const completion = await pod().complete(PROMPT, seed === undefined ? options : { ...options, seed });
    return { ids: completion.choices[0]?.token_ids, seed: completion.seed };
  };

  it('the same seed gives the same tokens, another seed others, negative and 53-bit seeds included', async () => {
    const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
    const runs = await Promise.all([...seeds, ...seeds].map(ids));
    runs.slice(0, seeds.length).forEach((run, index) => {
      expect(run).toEqual(runs[index + seeds.length]);
      expect(run.seed).toBe(seeds[index]);
    });
    expect(new Set(runs.map((run) => run.ids?.join())).size).toBe(seeds.length);
  });

  it('a missing seed is drawn, told, and brings the same tokens again', async () => {
    const [first, second] = [await ids(), await ids()];
    expect(first.seed).not.toBe(second.seed);
    expect(Number.isSafeInteger(first.seed)).toBe(true);
    expect(await ids(first.seed)).toEqual(first);
  });

  it('n choices differ, and each is the same whatever n', async () => {
    const eight = await pod().complete(PROMPT, { ...options, seed: 21, n: 8 });
    const three = await pod().complete(PROMPT, { ...options, seed: 21, n: 3 });
    expect(eight.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(new Set(eight.choices.map(({ token_ids }) => token_ids.join())).size).toBe(8);
    expect(three.choices.map(({ token_ids }) => token_ids)).toEqual(eight.choices.slice(0, 3).map(({ token_ids }) => token_ids));
    expect(eight.usage).toEqual({ prompt_tokens: 12, completion_tokens: 8 * 24, total_tokens: 12 + 8 * 24, cached_tokens: 0 });
  });
});

describe('logprobs', () => {
  it('are of the raw logits, whatever is done to them for sampling', async () => {
    const [golden] = casesOf('tiny-deepseek-v3');
    const options = { ignore_eos: true, max_tokens: 8, logprobs: 3 } as const;
    const plain = await pod().complete(PROMPT, { ...options, temperature: 0 });
    const [first] = plain.choices[0]?.logprobs ?? [];
    expect(Math.abs((first?.logprob ?? 1) - (golden?.greedy_logprobs[0] ?? 0))).toBeLessThan(1e-3);
    const shaped = await pod().complete(PROMPT, { ...options, temperature: 0.1, seed: 1, top_k: 1, presence_penalty: 2, logit_bias: { '700': 5 } });
    expect(shaped.choices[0]?.logprobs?.[0]).toEqual(first);
  });

  it('come one a token, sorted, with text, bytes and the chosen token beside the best', async () => {
    const { choices } = await pod().complete(PROMPT, { seed: 8, temperature: 1.5, ignore_eos: true, max_tokens: 12, logprobs: 20 });
    const [choice] = choices;
    expect(choice?.logprobs?.map(({ token_id }) => token_id)).toEqual(choice?.token_ids);
    for (const { token, bytes, logprob, top_logprobs } of choice?.logprobs ?? []) {
      expect(top_logprobs.length).toBe(20);
      expect(logprob).toBeLessThanOrEqual(0);
      expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(token);
      const values = top_logprobs.map((top) => top.logprob);
      expect(values).toEqual([...values].sort((a, b) => b - a));
      expect(values.reduce((sum, value) => sum + Math.exp(value), 0)).toBeLessThan(1 + 1e-5);
    }
    const none = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 2 });
    expect(none.choices[0]?.logprobs).toBe(null);
    expect(none.prompt.logprobs).toBe(null);
  });

  it('of the prompt: null first, then one a token, the same in any chunks as when they were generated', async () => {
    const generated = await pod().complete(PROMPT, { ...GREEDY, max_tokens: 40, logprobs: 2 });
    const all = [...generated.prompt.token_ids, ...(generated.choices[0]?.token_ids ?? [])];
    const { prompt } = await pod().complete(all, { ...GREEDY, max_tokens: 1, prompt_logprobs: 2, n: 2 });
    expect(prompt.token_ids).toEqual(all);
    expect(prompt.logprobs?.length).toBe(all.length);
    expect(prompt.logprobs?.[0]).toBe(null);
    expect(prompt.logprobs?.slice(12)).toEqual(generated.choices[0]?.logprobs);
    const single = await pod().complete([1], { ...GREEDY, max_tokens: 1, prompt_logprobs: 0 });
    expect(single.prompt.logprobs).toEqual([null]);
  });

  it('of a prompt as long as the context, 20 alternatives each: more than one frame of a ring holds', async () => {
    const prompt = Array.from({ length: 2_040 }, (_, index) => 100 + ((index * 7) % 1_900));
    const completion = await pod().complete(prompt, { ...GREEDY, max_tokens: 2, prompt_logprobs: 20 });
    expect(completion.prompt.logprobs?.length).toBe(2_040);
    expect(completion.prompt.logprobs?.slice(1).every((position) => position?.top_logprobs.length === 20)).toBe(true);
  });
});

describe('text', () => {
  it('a character whose bytes lie in several tokens comes whole, and never as half a one', async () => {
    const text = 'naïve Straße → 日本語 🦊!';
    const { token_ids } = await pod().tokenize(text, { add_special_tokens: false });
    // Each token is forced in its turn by asking for one token after the text so far: what comes out is what was encoded.
    const forced = await pod().detokenize(token_ids);
    expect(forced).toBe(text);
    const fox = (await pod().tokenize('🦊', { add_special_tokens: false })).token_ids;
    expect(fox.length).toBeGreaterThan(1);
    const pieces: string[] = [];
    const bias = { [fox[0] as number]: 100 };
    for await (const chunk of pod().generate('a', { temperature: 0, logit_bias: bias, ignore_eos: true, max_tokens: 3 })) pieces.push(chunk.text);
    // Three first bytes of a character: each is replaced, the last when the text ends.
    expect(pieces.join('')).toBe(await pod().detokenize([fox[0], fox[0], fox[0]] as number[]));
  });

  it('the chunks of a generation are its completion', async () => {
    const options = { seed: 77, temperature: 2, max_tokens: 60, ignore_eos: true, n: 4 } as const;
    const { choices } = await pod().complete('a', options);
    const texts = ['', '', '', ''];
    const finished: number[] = [];
    const generation = pod().generate('a', options);
    for await (const { choice, text, finish_reason } of generation) {
      texts[choice] += text;
      if (finish_reason !== null) finished.push(choice);
    }
    expect(texts).toEqual(choices.map(({ text }) => text));
    for (const { text, token_ids } of choices) expect(text).toBe(await pod().detokenize(token_ids));
    expect(finished.sort()).toEqual([0, 1, 2, 3]);
    expect(generation.usage()).toEqual({ prompt_tokens: 2, completion_tokens: 240, total_tokens: 242, cached_tokens: 0 });
  });
});
