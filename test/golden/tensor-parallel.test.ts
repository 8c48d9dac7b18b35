/** The forward pass split over the ranks of a DP group: whatever the split, the bits of one NPU. */

import { describe, expect, it } from 'vitest';
import { attentionLayouts } from '../../src/flowserve/layouts/step-layout.ts';
import type { StepOutcome } from '../../src/protocol/steps.ts';
import type { Topology } from '../../src/protocol/topology.ts';
import { casesOf, folderOf, MODELS } from './goldens.ts';
import { type BareModel, generateGreedily, loadBareModel } from './one-npu.ts';

const TOKENS = 6;
const SAMPLED = { temperature: 0.9, top_p: 0.95, seed: 5, logprobs: 3 };

/** Ids and log-probabilities of a golden's prompt, greedy and sampled, in chunks: what must be the same. */
function outcomesOf(model: BareModel, prompt: readonly number[], npu: number): StepOutcome[] {
  const greedy = generateGreedily(model, prompt, TOKENS, { npu, sampling: { logprobs: 5, prompt_logprobs: 2 } });
  return [...greedy, ...generateGreedily(model, prompt, TOKENS, { npu, chunk: 7, sampling: SAMPLED })];
}

describe.each(MODELS)('%s', async (name) => {
  const prompts = casesOf(name)
    .slice(0, 2)
    .map(({ token_ids }) => token_ids);
  const alone = await loadBareModel(folderOf(name));
  const expected = prompts.map((prompt) => outcomesOf(alone, prompt, 0));

  // Neither 4 and 6 heads nor 8 and 12 panels of outputs divide by all of these.
  it.each([
    { dp: 1, tp: 2 },
    { dp: 1, tp: 3 },
    { dp: 2, tp: 3 },
    { dp: 1, tp: 4 },
  ])('over dp $dp × tp $tp: same ids, same log-probabilities', async ({ dp, tp }) => {
    const model = await loadBareModel(folderOf(name), { topology: [{ role: 'colocated', dp, tp }], kv_blocks: 64, max_batch_tokens: 64 });
    for (const [index, prompt] of prompts.entries()) expect(outcomesOf(model, prompt, (dp - 1) * tp)).toEqual(expected[index]);
  });

  // 8 and 12 panels of columns: 3 and 5 do not divide them.
  it.each([
    { dp: 3, oproj: 3, segment_bytes: 13 << 20 },
    { dp: 4, oproj: 2 },
    { dp: 5, oproj: 5 },
  ])('over dp $dp, each $oproj NPUs with one output projection: same ids, same log-probabilities', async ({ dp, oproj, ...options }) => {
    const topology: Topology = [{ role: 'colocated', dp, tp: 1, oproj }];
    const model = await loadBareModel(folderOf(name), { topology, kv_blocks: 64, max_batch_tokens: 64, ...options });
    for (const [index, prompt] of prompts.entries()) expect(outcomesOf(model, prompt, (dp - 1) * index)).toEqual(expected[index]);
    // Of all bytes but these each NPU has its own, as before.
    const bytesOf = ({ plan }: BareModel): number[] =>
      attentionLayouts(plan.layouts).map(({ layers }) => layers.reduce((sum, { attention }) => sum + attention.o.head_bytes, 0));
    const [whole = 0] = bytesOf(alone);
    expect(bytesOf(model).reduce((sum, bytes) => sum + bytes, 0)).toBe((dp / oproj) * whole);
  });
});
