/** The forward pass split over the ranks of a DP group: whatever the split, the bits of one NPU. */
import { describe, expect, it } from 'vitest';
import type { StepOutcome } from '../../src/protocol/messages.ts';
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
});
