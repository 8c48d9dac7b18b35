/** Generations whose bits must be the same everywhere: each way to sample, short and long prompts. */
import { createHash } from 'node:crypto';
import type { GenerateOptions, Pod, Prompt } from '../../src/index.ts';
import { fingerprint } from './pods.ts';

export type Work = { readonly name: string; readonly prompt: Prompt; readonly options: GenerateOptions };

const STORY = 'The soldier took his sword and went out into the wide world, and there he met an old woman who asked him for bread. ';

export const WORKLOAD: readonly Work[] = [
  { name: 'greedy', prompt: 'Once upon a time there was a king who had', options: { temperature: 0, max_tokens: 24, ignore_eos: true, logprobs: 5 } },
  { name: 'greedy, long prompt', prompt: STORY.repeat(7), options: { temperature: 0, max_tokens: 12, ignore_eos: true, logprobs: 0 } },
  { name: 'plain sampling', prompt: 'The wolf', options: { seed: 1, max_tokens: 24, ignore_eos: true, logprobs: 1 } },
  { name: 'top_p, low temperature', prompt: 'In the forest', options: { temperature: 0.7, top_p: 0.8, seed: 2, max_tokens: 24, logprobs: 1 } },
  { name: 'top_k, min_p', prompt: 'She said', options: { temperature: 1.3, top_k: 40, min_p: 0.02, seed: -3, max_tokens: 24, logprobs: 1 } },
  {
    name: 'penalties, three choices',
    prompt: [{ role: 'user', content: 'Tell me a story about a fox.' }],
    options: { presence_penalty: 0.6, frequency_penalty: 0.4, repetition_penalty: 1.2, seed: 2 ** 50 + 5, n: 3, max_tokens: 16, ignore_eos: true, logprobs: 1 },
  },
  {
    name: 'greedy with penalties, bias and min_tokens',
    prompt: 'The king',
    options: { temperature: 0, repetition_penalty: 1.3, logit_bias: { '315': -100, '265': 2.5 }, min_tokens: 12, max_tokens: 20, logprobs: 2 },
  },
  {
    name: 'token ids',
    prompt: Array.from({ length: 33 }, (_, index) => 100 + 37 * index),
    options: { temperature: 0.9, seed: 9, max_tokens: 16, ignore_eos: true, logprobs: 1 },
  },
];

export type Mode = 'one after the other' | 'all at once';

/** Each work's fingerprint, by name. */
export async function run(pod: Pod, mode: Mode, workload: readonly Work[] = WORKLOAD): Promise<Record<string, string[]>> {
  const results: Record<string, string[]> = {};
  const runOne = async ({ name, prompt, options }: Work): Promise<void> => {
    results[name] = fingerprint(await pod.complete(prompt, options));
  };
  if (mode === 'all at once') await Promise.all(workload.map(runOne));
  else for (const work of workload) await runOne(work);
  return results;
}

export const digest = (results: Record<string, string[]>): Record<string, string> =>
  Object.fromEntries(
    WORKLOAD.map(({ name }) => [
      name,
      createHash('sha256')
        .update((results[name] ?? []).join('\n'))
        .digest('hex')
        .slice(0, 16),
    ]),
  );
