/** Pods whose domains take turns, with workers that are lost at any event, with or without successors: all requests end, in bounded time, with the tokens of one NPU or `experts_lost`. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Pod, PodOptions } from '../../src/index.ts';
import { runs } from '../property-runs.ts';
import { mirrored, open } from './lost-npus.ts';
import { expectNothingLeft } from './pods.ts';

const CALLS = 6;
const VIRTUAL_MS_MAX = 20_000;
type End = { readonly code: string; readonly tokens: readonly number[] };

const ask = (pod: Pod, index: number): Promise<End> =>
  pod.complete([1, 86, 1461, ...Array.from({ length: index * 4 }, (_, at) => 500 + index + at)], { max_tokens: 6 + index, seed: index, ignore_eos: true }).then(
    ({ choices }) => ({ code: 'finished', tokens: choices[0]?.token_ids ?? [] }),
    ({ code }: { code: string }) => ({ code, tokens: [] }),
  );
const askAll = (pod: Pod): Promise<End[]> => Promise.all(Array.from({ length: CALLS }, (_, index) => ask(pod, index)));

const SLOTS = ['none', 'mirrored', 'some'] as const;
const optionsOf = (slots: (typeof SLOTS)[number], experts: number): PodOptions =>
  slots === 'none' || experts === 1 ? {} : slots === 'mirrored' ? mirrored(32 + experts) : { expert_balancing: { redundant_slots: 16, period_ms: 20 } };

const LAST_OF_TWO = {
  ...({ domains: 2, attention: 1, experts: 2, shared: '', max_batch_tokens: 64, comes: 'never', seed: 1 } as const),
  losses: [{ any: 2, at: 100 }],
};

it('whichever are lost, when and however many, with or without copies, room elsewhere and successors', async () => {
  await using one = await open({});
  const right = await askAll(one);
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        domains: fc.integer({ min: 1, max: 3 }),
        attention: fc.integer({ min: 1, max: 2 }),
        experts: fc.integer({ min: 1, max: 4 }),
        shared: fc.constantFrom('', ',shared=1', ',shared=attention'),
        slots: fc.constantFrom(...SLOTS),
        max_batch_tokens: fc.constantFrom(4, 64),
        comes: fc.constantFrom('never', 'never', 'late', 'soon'),
        losses: fc.array(fc.record({ any: fc.nat(), at: fc.integer({ min: 1, max: 500 }) }), { minLength: 1, maxLength: 3 }),
        seed: fc.nat(1e6),
      }),
      async ({ domains, attention, experts, shared, slots, comes, losses, ...options }) => {
        const groups = domains * attention;
        const npu_workers = Array.from({ length: groups + experts }, (_, npu) => npu);
        const workers = npu_workers.length;
        const topology = `moe-attention:domains=${domains}x${attention},experts=${experts}${shared}`;
        const own = optionsOf(slots, experts);
        const successors: PodOptions =
          comes === 'never' ? { respawn: false } : comes === 'late' && own.expert_balancing !== undefined ? { rehome_after_ms: 5 } : {};
        await using pod = await open({ schedule: 'domains', topology, workers, npu_workers, load_balancing: 'round_robin', ...options, ...own, ...successors });
        const answers = askAll(pod);
        let events = 0;
        for (const { any, at } of losses.toSorted((a, b) => a.at - b.at)) {
          while (events < at && pod.control.step()) events++;
          // Worker 0 hosts controllers too; somebody is left who has attention.
          const victim = 1 + (any % (workers - 1));
          const isLost = (npu: number): boolean => pod.control.workers.isLost(npu);
          if (victim >= groups || Array.from({ length: groups }, (_, npu) => npu).some((npu) => npu !== victim && !isLost(npu)))
            pod.control.workers.lose(victim, 'the test killed it');
        }
        for (const ends of [await answers, await askAll(pod)])
          for (const [index, end] of ends.entries()) {
            seen.add(end.code);
            if (end.code === 'finished') expect(end).toEqual(right[index]);
            else expect(`${end.code} where a successor comes ${comes}`).toMatch(/^experts_lost where a successor comes (never|late)$/);
          }
        expect(pod.control.host.clock.now_ms()).toBeLessThan(VIRTUAL_MS_MAX);
        await expectNothingLeft(pod);
      },
    ),
    {
      numRuns: runs(12),
      // The last expert NPU of two: of what it had there is no copy, or there is.
      examples: [[{ ...LAST_OF_TWO, slots: 'none' }], [{ ...LAST_OF_TWO, slots: 'mirrored' }]],
    },
  );
  expect([...seen].sort()).toEqual(['experts_lost', 'finished']);
});
