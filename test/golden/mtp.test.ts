/** What MTP layers draft, on the bare model, against the reference implementation; then whatever the topology and however the prompt was computed. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import { SPAN } from '../../src/flowserve/layouts/step-layout.ts';
import type { PlanOptions } from '../../src/flowserve/pod-plan.ts';
import { layerParts } from '../../src/flowserve/steps/step-parts.ts';
import type { StepProgram } from '../../src/flowserve/steps/step-program.ts';
import { LAST_SAMPLED, type StepEntry } from '../../src/protocol/steps.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { twoMtpLayers } from '../model/two-mtp-layers.ts';
import { agreedTokens, casesOf, folderOf, nameOf } from './goldens.ts';
import { generateGreedily, loadBareModel } from './one-npu.ts';

const speculative = (tokens: number) => ({ method: 'mtp' as const, tokens, lookup_max: 5, lookup_min: 5, adaptive: false });
const load = (tokens: number, options: Partial<PlanOptions> = {}, folder = folderOf('tiny-deepseek-v3'), onDrafts = () => {}) =>
  loadBareModel(folder, { speculative: speculative(tokens), ...options }, onDrafts);

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

  it('should compute of a prompt its last row alone, in however many chunks, and drafts from it', async () => {
    const { golden } = cases[0] as (typeof cases)[number];
    const other = await load(1);
    const { drafts } = draftsBehind(other, golden.token_ids, 1, { chunk: 7 });
    expect(drafts.map(([draft]) => draft)).toEqual(golden.mtp_draft_ids?.slice(0, 1));
    const [{ forward }] = other.programs as [StepProgram];
    const { layers, moe } = forward.config;
    const rowsOf = (layer: number): number => {
      const at = offsetOf(forward.layout.counts[layer] ?? 0) / 4;
      return (
        other.space
          .wordsOf(forward.layout.base)
          .subarray(at, at + moe.experts)
          .reduce((sum, count) => sum + count, 0) / moe.topK
      );
    };
    expect([rowsOf(layers - 1), rowsOf(layers)]).toEqual([golden.token_ids.length, 1]);
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

/** Three drafts behind `tokens`, by passes through all of them: the main model, the first MTP layer, the second, and the second once more. */
function draftsFromScratch({ programs: [program], space }: Model, tokens: readonly number[]): number[] {
  const { forward, batches, service } = program as StepProgram;
  const { at, config, layout } = forward;
  const words = space.wordsOf(layout.base);
  const floats = space.floatsOf(layout.base);
  for (let block = 0; block < layout.kv.blocks; block++)
    words[(offsetOf(layout.blockTables.address) >>> 2) + block] = offsetOf(layout.kv.address) + block * layout.kv.block_bytes;
  const prepare = (ids: readonly number[], first: number, from: number): void => {
    words.set(ids, at.tokenIds >>> 2);
    words.set(
      ids.map((_, row) => first + row),
      at.positions >>> 2,
    );
    const span = at.spans >>> 2;
    for (const [field, value] of [
      [SPAN.row, 0],
      [SPAN.rows, ids.length],
      [SPAN.table, offsetOf(layout.blockTables.address)],
      [SPAN.from, from],
    ] as const)
      words[span + field] = value;
  };
  const goThrough = (layer: number, rows: number): void => {
    for (const part of layerParts(forward, layer, batches, service))
      if (part.kind === 'compute') part.compute(rows, [{ slot: 0, row: 0, rows }]);
      else if (part.kind === 'experts') part.own(rows, part.route(rows)[0]);
  };
  const best = (row: number, layer: number): number => {
    forward.head(() => row, 1, 0, layer);
    const logits = floats.subarray(at.logits >>> 2, (at.logits >>> 2) + config.vocabSize);
    return logits.indexOf(Math.max(...logits));
  };
  const rows = tokens.length - 1;
  const [first, second] = [config.layers, config.layers + 1];
  prepare(tokens.slice(0, -1), 0, 0);
  forward.embed(rows);
  for (let layer = 0; layer < config.layers; layer++) goThrough(layer, rows);
  prepare(tokens.slice(1), 1, 1);
  forward.foresee(first, rows, true);
  goThrough(first, rows);
  const drafts = [best(rows - 1, first)];
  prepare([...tokens.slice(2), ...drafts], 2, 2);
  forward.foresee(second, rows, false);
  goThrough(second, rows);
  drafts.push(best(rows - 1, second));
  forward.moveRow(rows - 1, 0);
  prepare(drafts.slice(-1), tokens.length + 1, 2);
  forward.foresee(second, 1, false);
  goThrough(second, 1);
  return [...drafts, best(0, second)];
}

describe('two layers for multi-token prediction', async () => {
  const folder = twoMtpLayers(mkdtempSync(join(tmpdir(), 'minipod-two-mtp-layers-')));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const [scratch, one] = [await load(3, { enforce_eager: true }, folder), await load(3)];
  const { golden } = cases.at(-1) as (typeof cases)[number];
  const prompt = golden.token_ids.slice(0, 37);
  const { ids } = draftsBehind(one, prompt, 14, { k: 3 });
  const walked = ids.map((_, index) => draftsFromScratch(scratch, [...prompt, ...ids.slice(0, index + 1)]));

  it.each([
    ['colocated:dp=1', {}],
    ['colocated:dp=1', { enforce_eager: true }],
    ['colocated:dp=1,tp=2', {}],
    ['moe-attention:domains=1x1,experts=2', {}],
    ['moe-attention:domains=1x1,experts=2', { schedule: 'domains' }],
  ] as const)('should draft in turn, the second one all that the first does not, as passes through all tokens do: %s %o', async (topology, options) => {
    const model = await load(3, { topology: parseTopology(topology), workers: 1, ...options }, folder);
    for (const chunk of [256, 9, 1]) expect(draftsBehind(model, prompt, 14, { k: 3, chunk })).toEqual({ ids, drafts: walked });
  });

  it('should draft something else than one of them alone', () => {
    const alone = draftsBehind(one, prompt, 14, { k: 3 }).drafts;
    expect(walked.map(([draft]) => draft)).toEqual(alone.map(([draft]) => draft));
    expect(walked).not.toEqual(alone);
  });

  it('should go on behind a hole without what lies in it', async () => {
    const foreseesAt = (start: number): number => (start < prompt.length + 3 || start >= prompt.length + 8 ? 3 : -1);
    let computed = 0;
    const counting = await load(3, {}, folder, () => computed++);
    const { drafts } = draftsBehind(counting, prompt, 14, { k: 3, foreseesAt });
    // What those steps take counts as no round of drafts, however short.
    expect(computed).toBe(14 - 5);
    expect(drafts.slice(0, 4)).toEqual(walked.slice(0, 4));
    expect(drafts.slice(4, 9).flat()).toEqual([]);
    expect(drafts.slice(9).every(({ length }) => length === 3)).toBe(true);
    const model = await load(3, {}, folder);
    for (const { forward } of model.programs) {
      const { address: at, blocks, block_bytes } = forward.layout.kv;
      model.space.floatsOf(forward.layout.base).fill(Number.NaN, offsetOf(at) / 4, (offsetOf(at) + blocks * block_bytes) / 4);
    }
    expect(draftsBehind(model, prompt, 14, { k: 3, foreseesAt }).drafts).toEqual(drafts);
  });

  it('should have the second in memory only where it drafts', async () => {
    expect((await load(1, {}, folder)).plan.config.draftLayers).toBe(1);
    expect((await load(2, {}, folder)).plan.config.draftLayers).toBe(2);
  });
});
