/** Pods for tests: whatever a test does, it must leave nothing behind. */
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { leftovers } from '../../src/chaos/nothing-left.ts';
import { type Completion, createPod, type Pod, type PodOptions } from '../../src/index.ts';

const SETTLE_MS_MAX = 10_000;
/** Most have settled within a look or two; some wait for a lease of seconds, and need no look each 5 ms. */
const SETTLE_STEPS_MS = { first: 5, later: 20 } as const;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * The pod has forgotten all requests: no KV block or answer is held, no NPU busy, nothing under way, and no actor was ever sent what it did not expect. Nor was its
 * control thread ever lost, unless the test did that: what calls survive may be a defect.
 */
export async function expectNothingLeft(pod: Pod, controls_lost = 0): Promise<void> {
  let stats = await pod.stats();
  for (let waited = 0; waited < SETTLE_MS_MAX && leftovers(stats).length > 0; ) {
    const step = waited < 4 * SETTLE_STEPS_MS.later ? SETTLE_STEPS_MS.first : SETTLE_STEPS_MS.later;
    await sleep(step);
    waited += step;
    stats = await pod.stats();
  }
  expect(leftovers(stats)).toEqual([]);
  expect(stats.unexpected_messages).toEqual([]);
  expect(stats.control_recoveries.slice(controls_lost)).toEqual([]);
}

/** A pod for one test: closed at its end, with nothing left. */
export async function withPod<Result>(options: PodOptions, use: (pod: Pod) => Promise<Result>): Promise<Result> {
  await using pod = await createPod(options);
  const result = await use(pod);
  await expectNothingLeft(pod);
  return result;
}

/** A pod for all tests of a file, looked at after each. */
export function sharedPod(options: PodOptions = {}): () => Pod {
  let pod: Pod | undefined;
  const get = (): Pod => {
    if (pod === undefined) throw new Error('the pod is created before the tests');
    return pod;
  };
  beforeAll(async () => {
    pod = await createPod(options);
  });
  afterEach(() => expectNothingLeft(get()));
  afterAll(() => pod?.close());
  return get;
}

const float64 = new Float64Array(1);
const words = new Uint32Array(float64.buffer);

/** A number's 64 bits: −0 is not 0, and nothing is rounded by printing. */
export function bitsOf(value: number): string {
  float64[0] = value;
  return `${(words[1] ?? 0).toString(16).padStart(8, '0')}${(words[0] ?? 0).toString(16).padStart(8, '0')}`;
}

/** All of a completion that must be the same everywhere, as text. */
export const fingerprint = ({ choices }: Completion): string[] =>
  choices.map(({ text, token_ids, logprobs, finish_reason }) =>
    [
      JSON.stringify(text),
      finish_reason,
      token_ids.join(' '),
      (logprobs ?? []).map(({ logprob, top_logprobs }) => [logprob, ...top_logprobs.map((top) => top.logprob)].map(bitsOf).join(',')).join(' '),
      (logprobs ?? []).map(({ top_logprobs }) => top_logprobs.map((top) => top.token_id).join(',')).join(' '),
    ].join(' | '),
  );
