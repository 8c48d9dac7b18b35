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
      const { dp_groups, task_executors, npus, ...whole } = await pod.stats();
      expect(dp_groups.map(({ dp_group, task_executor, role }) => [dp_group, task_executor, role])).toEqual([
        [0, 0, 'colocated'],
        [1, 0, 'colocated'],
      ]);
      for (const { dp_group, generation_tokens, prompt_tokens, requests_finished, kv_blocks } of dp_groups) {
        const here = calls.flatMap((generation) => generation.choices().filter(({ decode_group }) => decode_group === dp_group));
        expect([generation_tokens, requests_finished['length']]).toEqual([5 * here.length, here.length]);
        // Of a call, where one of its choices is computed.
        expect([prompt_tokens % 3, prompt_tokens <= 3 * here.length, kv_blocks]).toEqual([0, true, npus[dp_group]?.kv_blocks]);
      }
      const sum = (figure: 'prompt_tokens' | 'generation_tokens'): number => dp_groups.reduce((total, group) => total + group[figure], 0);
      expect([sum('prompt_tokens'), sum('generation_tokens')]).toEqual([whole.prompt_tokens, whole.generation_tokens]);
      expect(task_executors).toMatchObject([{ dp_groups: [0, 1], prompt_tokens: 18, generation_tokens: 60, requests_finished: { length: 12 } }]);
    }));

  it('should tell where prefill and decode are apart, and end a request when its last token is there', () =>
    withPod({ topology: 'pd:prefill=1xdp1,decode=1xdp1', workers: 2 }, async (pod) => {
      const late: number[] = [];
      for (let seed = 0; seed < 9; seed++) {
        const generation = pod.generate([1, 86, 1461], { max_tokens: 4, seed, ignore_eos: true });
        for await (const _ of generation) {
          // To its end.
        }
        const [choice] = generation.choices();
        expect(choice).toMatchObject({ prefill_group: 0, decode_group: 1 });
        expect(choice?.moved).toBeGreaterThan(choice?.first_token ?? Number.POSITIVE_INFINITY);
        const { received, finished } = generation.times();
        const last = choice?.finished ?? Number.NaN;
        late.push((finished - last) / (last - received));
      }
      // A prefill worker that nobody wakes finds within a second that its blocks were pulled: many times as long as the call took.
      expect(late.sort((a, b) => a - b)[4]).toBeLessThan(1);
      const { dp_groups } = await pod.stats();
      expect(dp_groups.map(({ role, prompt_tokens, generation_tokens }) => [role, prompt_tokens, generation_tokens])).toEqual([
        ['prefill', 27, 9],
        ['decode', 0, 27],
      ]);
    }));
});
