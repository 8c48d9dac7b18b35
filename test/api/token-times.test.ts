/** What /metrics tells of when tokens came, whatever their client does. */
import { expect, it } from 'vitest';
import { createMetrics } from '../../src/api/metrics.ts';
import { LiveGeneration } from '../../src/calls/generation.ts';
import { FakePod } from './fake-pod.ts';

it('should tell how far tokens came apart, though nobody reads them', async () => {
  let now_ms = 100;
  const terms = { id: 'cmpl-1', seed: 1, choices: 1, wantsPromptLogprobs: false };
  const generation = new LiveGeneration(terms, { clock: { now_ms: () => now_ms }, cancel: () => {}, ended: () => {} });
  const metrics = createMetrics('fake', 512);
  metrics.observe(generation, {});
  generation.move(0, 0);
  const nothing = { logprobs: null, finish: null, stop_string: null, stop_token: -1, parsed: null, cached: 0, drafted: 0 };
  const tokens: readonly (readonly [at_ms: number, token_ids: readonly number[]])[] = [
    [105, [65]],
    [115, [66]],
    [125, []],
    [135, [67, 68]],
  ];
  for (const [at_ms, token_ids] of tokens) {
    now_ms = at_ms;
    generation.push({ request: 1, choice: 0, index: 0, text: '', token_ids, ...nothing });
  }
  const rendered = await metrics.render(await new FakePod().stats());
  const told = (name: string): number => Number(new RegExp(`^vllm:${name}\\{[^}]*engine="0"[^}]*\\} (\\S+)$`, 'm').exec(rendered)?.[1]);
  expect([told('time_to_first_token_seconds_count'), told('time_to_first_token_seconds_sum')]).toEqual([1, 0.005]);
  expect([told('inter_token_latency_seconds_count'), told('inter_token_latency_seconds_sum')]).toEqual([3, expect.closeTo(0.03)]);
});
