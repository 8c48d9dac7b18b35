/** What MTP layers draft, on the bare model, against the reference implementation; then whatever the topology and however the prompt was computed. */
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
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
function draftsBehind(model: Model, prompt: readonly number[], tokens: number, { k = 1, chunk = 256, npu = 0, foreseesAt = (_start: number) => k } = {}) {
  const drafts: (readonly number[])[] = [];
  const outcomes = generateGreedily(model, prompt, tokens, {
    ...{ chunk, npu, foresees: k, foreseesAt },
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

  it('should go on behind a hole, without what lies in it, the same op by op, captured and on two ranks', async () => {
    const { golden } = cases[0] as (typeof cases)[number];
    const { length } = golden.token_ids;
    const foreseesAt = (start: number): number => (start < length + 6 || start >= length + 16 ? 3 : -1);
    const withHole = (other: Model) => draftsBehind(other, golden.token_ids, 30, { k: 3, foreseesAt });
    const [eager, captured, ranks] = [
      await load(3, { enforce_eager: true }),
      await load(3),
      await load(3, { topology: parseTopology('colocated:dp=1,tp=2'), workers: 1 }),
    ];
    const { ids, drafts } = withHole(eager);
    for (const { forward, npu } of captured.programs) {
      const { address: at, blocks, block_bytes } = forward.layout.kv;
      expect(npu).toBe(0);
      captured.space.floatsOf(forward.layout.base).fill(Number.NaN, offsetOf(at) / 4, (offsetOf(at) + blocks * block_bytes) / 4);
    }
    expect(withHole(captured)).toEqual({ ids, drafts });
    expect(withHole(ranks)).toEqual({ ids, drafts });
    const whole = draftsBehind(reference, golden.token_ids, 30, { k: 3 });
    expect(ids).toEqual(whole.ids);
    // In the hole there are none, before it they are those without it, behind it some are.
    expect(drafts.slice(0, 6)).toEqual(whole.drafts.slice(0, 6));
    expect(drafts.slice(7, 16).flat()).toEqual([]);
    const behind = drafts.slice(17, -1);
    expect(behind.every((some) => some.length === 3)).toBe(true);
    expect(behind.filter(([draft], index) => draft === whole.drafts[17 + index]?.[0]).length).toBeGreaterThan(behind.length / 3);
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
