/** Which DP group computed what: told to the caller of each generation, and counted. */
import { describe, expect, it } from 'vitest';
import { withPod } from './pods.ts';

describe('a pod of several DP groups', () => {
  it('should tell a caller which group computed each choice, and when', () =>
    withPod({ clock: 'virtual', kernels: 'hash', npus: 2, workers: 2 }, async (pod) => {
      const calls = Array.from({ length: 6 }, (_, seed) => pod.generate([1, 86, 1461 + seed], { max_tokens: 5, n: 2, seed, ignore_eos: true }));
      for (const generation of calls) {
        if (generation === calls[0])
          expect(generation.choices()[1]).toEqual({ choice: 1, prefill_group: null, decode_group: null, first_token: null, moved: null, finished: null });
        for await (const _ of generation) {
          // To its end.
        }
        const { received, finished } = generation.times();
        for (const choice of generation.choices()) {
          const { prefill_group, decode_group, first_token, moved, finished: ended } = choice;
          expect([0, 1]).toContain(prefill_group);
          expect([decode_group, moved]).toEqual([prefill_group, null]);
          expect([received, first_token, ended, finished]).toEqual([received, first_token, ended, finished].toSorted((a, b) => Number(a) - Number(b)));
        }
      }
      const used = new Set(calls.flatMap((generation) => generation.choices().map(({ decode_group }) => decode_group)));
      expect([...used].sort()).toEqual([0, 1]);
    }));
});
