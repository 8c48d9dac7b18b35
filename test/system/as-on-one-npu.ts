/** Four calls and random wishes whose answers must be those of one NPU, whatever pod they are asked of. */
import fc from 'fast-check';
import { expect } from 'vitest';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import type { openRig } from './rig.ts';

export const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest there was a little house', 'The king'] as const;
const SHORT: GenerateOptions = { ignore_eos: true, max_tokens: 16, logprobs: 1 };

/** All at once, greedy and sampled by turns. */
export const askFour = (pod: Pod): Promise<string[][]> =>
  Promise.all(PROMPTS.map(async (prompt, seed) => fingerprint(await pod.complete(prompt, { ...SHORT, seed, temperature: seed % 2 }))));

let known: Promise<string[][]> | null = null;

export async function expectAnswersOfOneNpu(options: PodOptions): Promise<void> {
  known ??= withPod({ clock: 'virtual' }, askFour);
  expect(await withPod(options, askFour)).toEqual(await known);
}

type Wish = { readonly start: number; readonly length: number; readonly max_tokens: number };

export const wishes: fc.Arbitrary<Wish[]> = fc.array(
  fc.record({ start: fc.nat(3), length: fc.integer({ min: 1, max: 60 }), max_tokens: fc.integer({ min: 1, max: 24 }) }),
  { minLength: 1, maxLength: 10 },
);

/** Of the hash model on a virtual clock. @param one - such a pod of one NPU */
export async function expectTokensOf(one: Pod, options: PodOptions, wished: readonly Wish[]): Promise<void> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', ...options });
  const calls = wished.map(({ start, length, max_tokens }, seed): [number[], GenerateOptions] => [
    Array.from({ length }, (_, at) => 3 + ((start * 7_919 + at * 104_729) % 1_900)),
    { max_tokens, seed, ignore_eos: true, temperature: seed % 2 },
  ]);
  const got = await Promise.all(calls.map(([prompt, how]) => pod.complete(prompt, how)));
  await expectNothingLeft(pod);
  for (const [index, [prompt, how]] of calls.entries()) {
    const alone = await one.complete(prompt, how);
    expect(got[index]?.choices[0]?.token_ids).toEqual(alone.choices[0]?.token_ids);
  }
}

type Rig = Awaited<ReturnType<typeof openRig>>;

/** How each of four calls ends in whose midst something breaks, against the same call afterwards: `the same`, `another`, or its error. Nothing is left. */
export async function endsWhen(rig: Rig, breakIt: () => void, max_tokens = 50): Promise<string[]> {
  const long: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens };
  const start = (await rig.pod.stats()).generation_tokens;
  const calls = Promise.allSettled(PROMPTS.map((prompt) => rig.pod.complete(prompt, long)));
  while ((await rig.pod.stats()).generation_tokens < start + 8) await sleep(1);
  breakIt();
  const ends = await calls;
  const again = await Promise.all(PROMPTS.map(async (prompt) => fingerprint(await rig.pod.complete(prompt, long))));
  await expectNothingLeft(rig.pod);
  return ends.map((end, index) => {
    if (end.status === 'rejected') return `${end.reason.code}: ${end.reason.message}`;
    return JSON.stringify(fingerprint(end.value)) === JSON.stringify(again[index]) ? 'the same' : 'another';
  });
}
