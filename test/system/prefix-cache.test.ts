/** What was computed of a prefix is not computed again, and no token or log-probability tells. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, PodOptions } from '../../src/index.ts';
import { sharedPod, withPod } from './pods.ts';

const STORY = [1, 86, 1461, 613, 265, 531, 460, 315];
/** Three blocks of 16 that all begin with, then a few tokens of its own. */
const promptOf = (index: number): number[] => [...Array.from({ length: 48 }, (_, at) => STORY[at % STORY.length] as number), 504 + index, 454];
const OPTIONS = { max_tokens: 24, temperature: 1, seed: 3, logprobs: 2, ignore_eos: true } satisfies GenerateOptions;

const bits = ({ choices }: Completion): unknown => choices.map(({ token_ids, logprobs }) => ({ token_ids, logprobs }));
const cachedOf = ({ usage }: Completion): number => usage.cached_tokens;

const CLOCKS: readonly PodOptions[] = [{ clock: 'live' }, { clock: 'virtual' }];

/** One after the other, in a pod without any cache. */
let alone: Promise<unknown[]> | null = null;
const answersAlone = (): Promise<unknown[]> => {
  alone ??= withPod({ clock: 'virtual', prefix_caching: false }, async (pod) => {
    const results: Completion[] = [];
    for (let index = 0; index < 4; index++) results.push(await pod.complete(promptOf(index), OPTIONS));
    expect(results.map(cachedOf)).toEqual([0, 0, 0, 0]);
    return results.map(bits);
  });
  return alone;
};

const askMany = (options: PodOptions): Promise<unknown[]> =>
  withPod({ npus: 2, ...options }, async (pod) => {
    const results = await Promise.all(
      Array.from({ length: 24 }, (_, index) => pod.complete(promptOf(index % 5), { ...OPTIONS, seed: index, n: 1 + (index % 2) })),
    );
    const { npus } = await pod.stats();
    if (options.kv_blocks !== undefined) expect(npus.reduce((sum, npu) => sum + npu.preemptions, 0)).toBeGreaterThan(0);
    return results.map(bits);
  });
let many: Promise<unknown[]> | null = null;

describe.each(CLOCKS)('the prefix cache of a pod: %o', (clock) => {
  it('gives the bits of a pod without one, cold, hot and with others at the same time, and says what it had', async () => {
    const expected = await answersAlone();
    await withPod(clock, async (pod) => {
      const cold = await pod.complete(promptOf(0), OPTIONS);
      expect([bits(cold), cachedOf(cold)]).toEqual([expected[0], 0]);
      const hot = await Promise.all([0, 1, 2, 3].map((index) => pod.complete(promptOf(index), OPTIONS)));
      expect(hot.map(bits)).toEqual(expected);
      expect(hot.map(cachedOf)).toEqual([48, 48, 48, 48]);
      // A conversation goes on: what was answered is known too.
      const [{ token_ids: answer = [] } = {}] = hot[0]?.choices ?? [];
      const next = await pod.complete([...promptOf(0), ...answer, 86], OPTIONS);
      expect(cachedOf(next)).toBe(Math.floor((50 + answer.length - 1) / 16) * 16);
      const [npu] = (await pod.stats()).npus;
      expect(npu).toMatchObject({ prefix_queries: 5 * 50 + 75, prefix_hits: 4 * 48 + cachedOf(next) });
      await pod.resetPrefixCache();
      expect(cachedOf(await pod.complete(promptOf(0), OPTIONS))).toBe(0);
    });
  });

  it('keeps the tokens where KV blocks are so few that they are given up and preempted all the time', async () => {
    many ??= askMany({ clock: 'virtual', prefix_caching: false });
    expect(await askMany({ ...clock, kv_blocks: 7 })).toEqual(await many);
  });
});

/** Threads make no difference to these. */
describe('the prefix cache', () => {
  it('counts what was there before the request, not what its own choices shared', async () => {
    for (const seed of [0, 1, 2, 3, 4, 5])
      await withPod({ clock: 'virtual', seed }, async (pod) => {
        const results = [await pod.complete(promptOf(0), { ...OPTIONS, n: 3 }), await pod.complete(promptOf(0), { ...OPTIONS, n: 3 })];
        expect(results.map(cachedOf)).toEqual([0, 48]);
      });
  });

  describe('dropped before each', () => {
    const pod = sharedPod({ clock: 'virtual' });
    beforeEach(() => pod().resetPrefixCache());

    it('shows no request the prefixes of another salt', async () => {
      const salted = (cache_salt: string): Promise<Completion> => pod().complete(promptOf(0), { ...OPTIONS, cache_salt });
      const results = [await salted(''), await salted('tenant'), await salted('tenant'), await salted('')];
      expect(results.map(cachedOf)).toEqual([0, 0, 48, 48]);
      expect(new Set(results.map((result) => JSON.stringify(bits(result)))).size).toBe(1);
    });

    it('forgets all when it is told to', async () => {
      const results: Completion[] = [];
      for (const resets of [false, false, true]) {
        if (resets) await pod().resetPrefixCache();
        results.push(await pod().complete(promptOf(0), OPTIONS));
      }
      expect(results.map(cachedOf)).toEqual([0, 48, 0]);
      expect(new Set(results.map((result) => JSON.stringify(bits(result)))).size).toBe(1);
    });

    it('computes all of a prompt whose log-probabilities are asked for', async () => {
      const runs = [0, 1].map(() => async () => {
        const generation = pod().generate(promptOf(0), { ...OPTIONS, prompt_logprobs: 1 });
        for await (const _ of generation);
        return { logprobs: (await generation.prompt).logprobs, cached: generation.usage().cached_tokens };
      });
      const [first, second] = [await runs[0]?.(), await runs[1]?.()];
      expect(second).toEqual(first);
      expect(second?.logprobs?.length).toBe(50);
      expect(second?.cached).toBe(0);
    });
  });
});
