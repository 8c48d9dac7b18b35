import { afterAll, describe, expect, it } from 'vitest';
import { divergenceOf } from '../../src/fidelity/divergence.ts';
import { natsOf, perplexityOf } from '../../src/fidelity/perplexity.ts';
import { createPod } from '../../src/index.ts';
import { casesOf, folderOf, type ModelName, TOLERANCE } from '../golden/goldens.ts';

const TEXT = 'Once upon a time there was a king who had three sons. The eldest went out into the wide world, and came to a great forest. '.repeat(3);
const PART = { text: TEXT, window: 48, stride: 20 };

const REFERENCE = ['tiny-deepseek-v3', 'tiny-qwen3-moe'] satisfies ModelName[];

describe.each(REFERENCE)('perplexity of %s', async (name) => {
  const model = folderOf(name);
  const pod = await createPod({ clock: 'virtual', model });
  const two = await createPod({ model, topology: 'pd:prefill=1xdp1tp2,decode=1', max_batch_tokens: 24 });
  afterAll(async () => {
    await pod.close();
    await two.close();
  });

  it('should be the reference implementation’s on what it continued', async () => {
    for (const { token_ids, greedy_ids, greedy_logprobs } of casesOf(name).slice(0, 3)) {
      const nats = await natsOf(pod, { ids: [...token_ids, ...greedy_ids], scored_from: token_ids.length });
      const expected = -greedy_logprobs.reduce((sum, logprob) => sum + logprob, 0);
      expect(Math.abs(nats - expected) / greedy_ids.length).toBeLessThan(TOLERANCE);
    }
  });

  it('should be the same to the last bit whatever serves it, and side by side with another model', async () => {
    const found = await perplexityOf(pod, { ...PART, model });
    expect(found.perplexity).toBeGreaterThan(1);
    expect(await perplexityOf(two, { ...PART, model })).toEqual(found);
    expect((await divergenceOf({ ...PART, model, against: model })).model).toEqual(found);
  });
});

it('should tell how far it is, and stop when it is told to', async () => {
  await using pod = await createPod({ clock: 'virtual' });
  // Far more windows than are under way at once: the abort always comes before the last has begun.
  const text = TEXT.repeat(4);
  const seen: number[] = [];
  const abort = new AbortController();
  const onProgress = (done: number): void => {
    seen.push(done);
    if (done === 3) abort.abort();
  };
  await expect(perplexityOf(pod, { ...PART, text, model: 'tiny-deepseek-v3', onProgress, signal: abort.signal })).rejects.toMatchObject({ code: 'cancelled' });
  expect(seen.slice(0, 3)).toEqual([1, 2, 3]);
});
