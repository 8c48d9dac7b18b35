/** The goldens again, through threads, rings and actors: what a caller of the embedded API gets. */
import { describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, Pod, Prompt } from '../../src/index.ts';
import { sharedPod } from '../system/pods.ts';
import { agreedTokens, casesOf, folderOf, type GoldenCase, MODELS, nameOf, TOLERANCE } from './goldens.ts';

const chatOf = ({ user }: GoldenCase): Prompt[] => (user === undefined ? [] : [[{ role: 'user', content: user }]]);
const textOf = ({ text }: GoldenCase): Prompt[] => (text === undefined ? [] : [text]);
const tokensOf = ({ token_ids }: GoldenCase): Prompt[] => [token_ids];

/** All cases at once: they share the batch, and must not feel it. */
async function expectGoldens(pod: Pod, cases: readonly GoldenCase[], promptsOf: (golden: GoldenCase) => readonly Prompt[]): Promise<void> {
  const options = (golden: GoldenCase): GenerateOptions => ({ temperature: 0, max_tokens: golden.greedy_ids.length, ignore_eos: true, logprobs: 2 });
  const asked = cases.flatMap((golden) => promptsOf(golden).map((prompt) => ({ golden, prompt })));
  expect(asked.length).toBeGreaterThan(0);
  const completions = await Promise.all(asked.map(({ golden, prompt }) => pod.complete(prompt, options(golden))));
  completions.forEach((completion, index) => {
    expectGolden(completion, asked[index]?.golden as GoldenCase);
  });
}

function expectGolden({ prompt, choices }: Completion, golden: GoldenCase): void {
  const name = nameOf(golden);
  expect(prompt.token_ids, name).toEqual(golden.token_ids);
  const ids = choices[0]?.token_ids ?? [];
  const agreed = agreedTokens(golden, ids);
  expect(agreed, `${name}: ${ids} is not ${golden.greedy_ids}`).toBeGreaterThan(0);
  for (let index = 0; index < agreed; index++) {
    const position = choices[0]?.logprobs?.[index];
    expect(Math.abs((position?.logprob ?? Number.NaN) - (golden.greedy_logprobs[index] as number)), name).toBeLessThan(TOLERANCE);
    const [first, second] = position?.top_logprobs ?? [];
    expect(Math.abs((first?.logprob ?? Number.NaN) - (second?.logprob ?? 0) - (golden.top1_top2_gap[index] as number)), name).toBeLessThan(2 * TOLERANCE);
  }
}

describe.each(MODELS)('the goldens of %s hold through a pod of 4 NPUs', (name) => {
  // On threads once: that models have the same bits there is held in test/system/same-bits.
  const pod = sharedPod({ model: folderOf(name), npus: 4, workers: 2, ...(name !== MODELS[0] && { clock: 'virtual' }) });

  it('greedy tokens and logprobs of prompts given as token ids', () => expectGoldens(pod(), casesOf(name), tokensOf));
  it('greedy tokens and logprobs of prompts given as text', () => expectGoldens(pod(), casesOf(name), textOf));
  it('greedy tokens and logprobs of conversations, through the chat template', () => expectGoldens(pod(), casesOf(name), chatOf));
});
