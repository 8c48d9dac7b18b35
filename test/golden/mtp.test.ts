/** What MTP layers draft, on the bare model, against the reference implementation; then whatever the topology and however the prompt was computed. */
import { describe, expect, it } from 'vitest';
import type { PlanOptions } from '../../src/flowserve/pod-plan.ts';
import type { StepProgram } from '../../src/flowserve/step-program.ts';
import { LAST_SAMPLED, type StepEntry } from '../../src/protocol/steps.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { agreedTokens, casesOf, folderOf, nameOf } from './goldens.ts';
import { generateGreedily, loadBareModel } from './one-npu.ts';

const speculative = (tokens: number) => ({ method: 'mtp' as const, tokens, lookup_max: 5, lookup_min: 5, adaptive: false });
const load = (tokens: number, options: Partial<PlanOptions> = {}) =>
  loadBareModel(folderOf('tiny-deepseek-v3'), { speculative: speculative(tokens), ...options });

const NEXT: Omit<StepEntry, 'drafts'> = {
  ...{ slot: 0, start: 0, tokens: [LAST_SAMPLED], first_block: 0, blocks: [], shared: 0, generated: 0, samples: true, foresees: -1, attach: null, output: [] },
};

/** Drafts that the next step of slot 0 would verify. */
function draftsOf(program: StepProgram, count: number): readonly number[] {
  const [entry] = program.resolve({ step: 1, after: 0, detach: [], entries: [{ ...NEXT, drafts: count }] }).entries;
  return entry?.tokens.slice(1) ?? [];
}

type Model = Awaited<ReturnType<typeof load>>;

/** The drafts behind each generated token. */
function draftsBehind(model: Model, prompt: readonly number[], tokens: number, { k = 1, chunk = 256, npu = 0 } = {}) {
  const drafts: (readonly number[])[] = [];
  const outcomes = generateGreedily(model, prompt, tokens, {
    ...{ chunk, npu, foresees: k },
    onStep: (start, rows) => {
      if (start + rows >= prompt.length) drafts.push(draftsOf(model.programs[npu] as StepProgram, k));
    },
  });
  return { ids: outcomes.map(({ token }) => token), drafts };
}

const cases = casesOf('tiny-deepseek-v3').map((golden) => ({ golden, name: nameOf(golden) }));

describe('multi-token prediction', async () => {
  const model = await load(1);
  const reference = await load(3, { enforce_eager: true });

  it.each(cases)('should draft what the reference drafts, and change no token: $name', ({ golden }) => {
    const { ids, drafts } = draftsBehind(model, golden.token_ids, golden.greedy_ids.length);
    expect(agreedTokens(golden, ids)).toBe(golden.greedy_ids.length);
    expect(drafts.slice(0, -1).map(([draft]) => draft)).toEqual(golden.mtp_draft_ids);
    expect(ids.slice(1).filter((id, index) => id === drafts[index]?.[0]).length).toBe(golden.mtp_accepted);
  });

  it.each([
    ['colocated:dp=2', {}],
    ['colocated:dp=1,tp=2', {}],
    ['moe-attention:domains=1x1,experts=2', { micro_batches: 1 }],
    ['moe-attention:domains=1x1,experts=2', { micro_batches: 2 }],
    ['moe-attention:domains=1x1,experts=2', { schedule: 'domains' }],
  ] as const)('should draft the same on %s %o, in chunks and op by op', async (topology, options) => {
    const other = await load(3, { topology: parseTopology(topology), workers: 1, ...options });
    for (const { golden } of cases.slice(0, 2))
      for (const chunk of [256, 9])
        expect(draftsBehind(other, golden.token_ids, 12, { k: 3, chunk })).toEqual(draftsBehind(reference, golden.token_ids, 12, { k: 3 }));
  });
});
