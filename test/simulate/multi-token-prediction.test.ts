/**
 * The time per token that xDeepServe measures with multi-token prediction (§7): a decode iteration of 93 ms and 2 ms between two of them, 60 requests a die, and
 * 90 of 100 drafts right.
 */
import { expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';

const [DIES, REQUESTS_OF_DIE, TOKENS] = [2, 60, 60];
const [ITERATION_MS, GAP_MS, ACCEPTANCE] = [93, 2, 0.9];

/** Milliseconds a token, of all requests, and the share of drafts that were right. */
async function timed(speculative: PodOptions): Promise<{ tpot_ms: number; acceptance: number; ids: string[] }> {
  await using pod = await createPod({
    ...{ clock: 'virtual', kernels: 'hash', hash_foreseeable: ACCEPTANCE, topology: `colocated:dp=${DIES}` },
    // As the paper's, whose scheduler has the gap: each step is planned when the one before it has come back.
    ...{ async_scheduling: false, max_batch_requests: REQUESTS_OF_DIE, kv_blocks: 512, prefix_caching: false },
    ...speculative,
  });
  (pod as VirtualPod).control.host.disturbance = {
    meet: () => {},
    transmit: (mail, delay_ns) => (mail.message.type === 'STEP' ? [{ mail, delay_ns: delay_ns + GAP_MS * 1e6, keepsOrder: true }] : null),
    timer_ms: (_, delay_ms) => delay_ms,
    step_ns: () => ITERATION_MS * 1e6,
  };
  const calls = Array.from({ length: DIES * REQUESTS_OF_DIE }, (_, seed) => pod.generate([1, 7 + seed], { max_tokens: TOKENS, seed, ignore_eos: true }));
  const ids = await Promise.all(
    calls.map(async (call) => {
      let all = '';
      for await (const { token_ids } of call) all += ` ${token_ids}`;
      return all.replaceAll(',', ' ');
    }),
  );
  const [drafted, accepted] = (await pod.stats()).dp_groups.reduce(
    ([all, right], { drafting }) => [all + drafting.draft_tokens, right + drafting.accepted_tokens],
    [0, 0] as readonly [number, number],
  );
  const tpots = calls.map((call) => {
    const [times] = call.choices();
    return ((times?.finished ?? 0) - (times?.first_token ?? 0)) / (TOKENS - 1);
  });
  return { tpot_ms: tpots.reduce((sum, tpot) => sum + tpot, 0) / tpots.length, acceptance: accepted / Math.max(1, drafted), ids };
}

it('is (93 + 2) / 1.9 ms, and 2,400 tokens a second of a chip’s two dies, where each step is the paper’s', async () => {
  const plain = await timed({});
  const drafted = await timed({ speculative_config: { method: 'mtp', num_speculative_tokens: 1, adaptive: false } });
  expect(drafted.ids).toEqual(plain.ids);
  expect(Math.abs(drafted.acceptance - ACCEPTANCE)).toBeLessThan(0.02);
  expect(Math.abs(plain.tpot_ms / (ITERATION_MS + GAP_MS) - 1)).toBeLessThan(0.01);
  expect(Math.abs(drafted.tpot_ms / ((ITERATION_MS + GAP_MS) / (1 + ACCEPTANCE)) - 1)).toBeLessThan(0.02);
  expect(Math.abs((2 * REQUESTS_OF_DIE * 1_000) / drafted.tpot_ms / 2_400 - 1)).toBeLessThan(0.02);
});
