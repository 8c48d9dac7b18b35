/**
 * The last layer computes the rows that are read, and everything is as if it had computed all: two pods are given the same steps, and one of them records what its gates
 * choose, for which all rows go through all layers.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import type { AddressSpace } from '../../../src/fabric/address-space.ts';
import type { ExpertService } from '../../../src/flowserve/experts/expert-service.ts';
import type { Arithmetic } from '../../../src/flowserve/forward/arithmetic.ts';
import type { PlanOptions } from '../../../src/flowserve/pod-plan.ts';
import { TWO_BATCHES_ROWS_MIN } from '../../../src/flowserve/steps/dataflow-lanes.ts';
import type { StepProgram } from '../../../src/flowserve/steps/step-program.ts';
import type { Done } from '../../../src/flowserve/steps/step-run.ts';
import { NO_TERMS } from '../../../src/protocol/constructors.ts';
import type { Sequence } from '../../../src/protocol/messages.ts';
import type { StepEntry, StepOutcome, StepPlan } from '../../../src/protocol/steps.ts';
import { parseTopology } from '../../../src/protocol/topology.ts';
import { folderOf, type ModelName } from '../../golden/goldens.ts';
import { GREEDY } from '../../golden/greedy.ts';
import { loadBareModel } from '../../golden/one-npu.ts';
import { cases, runs } from '../../property-runs.ts';
import { makeHashPod } from '../hash-rig.ts';

type Pod = { readonly space: AddressSpace; readonly programs: readonly StepProgram<Arithmetic>[]; readonly services: readonly ExpertService[] };

/** `chunks`: rows that each of its steps may have, in turn; `drafts`: as many behind each token, of which `right` are what is drawn. */
type Asked = {
  readonly prompt: readonly number[];
  readonly output: number;
  readonly chunks: readonly number[];
  readonly drafts: number;
  readonly right: readonly boolean[];
  readonly prompt_logprobs: number;
  readonly foresees: number;
};

const SEQUENCES = 4;
const TOKENS_MAX = 64;
const BLOCK_SIZE = 16;
const BLOCKS_OF_EACH = 6;
const VOCABULARY = 1_900;

const askedOf = (has: { readonly logprobs: boolean; readonly drafts: boolean; readonly foresees: boolean }): fc.Arbitrary<Asked[]> =>
  fc.array(
    fc.record({
      prompt: fc.array(fc.integer({ min: 3, max: VOCABULARY }), { minLength: 1, maxLength: 40 }),
      output: fc.integer({ min: 1, max: 4 }),
      chunks: fc.array(fc.integer({ min: 1, max: 16 }), { minLength: 1, maxLength: 4 }),
      drafts: has.drafts ? fc.nat(3) : fc.constant(0),
      right: fc.array(fc.boolean(), { minLength: 1, maxLength: 5 }),
      prompt_logprobs: has.logprobs ? fc.constantFrom(-1, -1, 1) : fc.constant(-1),
      foresees: has.foresees ? fc.constantFrom(-1, 2) : fc.constant(-1),
    }),
    { minLength: 1, maxLength: SEQUENCES },
  );

/** A sequence under way: what it has, of which so many positions are computed. */
type Growing = Asked & { readonly tokens: number[]; computed: number; drawn: number; turn: number };

const sequenceOf = ({ prompt, output, prompt_logprobs }: Asked, slot: number, logprobs: number): Sequence => ({
  ...{ request: slot, choice: 0, prompt, max_tokens: output + 8, ...NO_TERMS },
  sampling: { ...GREEDY, logprobs, prompt_logprobs },
});

/** Its part of the next step: the next chunk, or the token drawn last with its drafts behind it. `expected`: what it will draw, where that is known. */
function entryOf(one: Growing, slot: number, expected: readonly number[], logprobs: number): StepEntry {
  const { tokens, computed, chunks, turn, drafts: wanted, right, drawn, foresees } = one;
  const rows = Math.min(chunks[turn % chunks.length] as number, tokens.length - computed);
  const samples = computed + rows === tokens.length;
  const drafts = samples && rows <= 8 ? wanted : 0;
  const guesses = Array.from({ length: drafts }, (_, at) => {
    const isRight = right[(turn + at) % right.length] === true;
    return isRight ? (expected[drawn + at] ?? 3) : 5 + at;
  });
  return {
    ...{ slot, start: computed, tokens: [...tokens.slice(computed, computed + rows), ...guesses], shared: 0, generated: drawn, samples, drafts, foresees },
    ...{ first_block: 0, blocks: turn > 0 ? [] : Array.from({ length: BLOCKS_OF_EACH }, (_, block) => slot * BLOCKS_OF_EACH + block) },
    ...{ attach: turn > 0 ? null : sequenceOf(one, slot, logprobs), output: [] },
  };
}

/** All ranks of the first group, in turn, as one step. */
function run({ programs, services }: Pod, ranks: number, plan: StepPlan): Done {
  const own = programs.slice(0, ranks);
  for (const program of own) program.start(plan);
  const ends = own.map((): Done | null => null);
  for (let turn = 0; ends.includes(null); turn++) {
    if (turn > 100_000) throw new Error(`step ${plan.step} waits for NPUs ${own.flatMap(({ missing }) => missing)}`);
    for (const [index, program] of own.entries()) {
      if (ends[index] !== null) continue;
      const poll = program.poll();
      if (poll.state === 'done') ends[index] = poll;
    }
    for (const service of services) service.serve(64);
  }
  const [first] = ends as [Done];
  for (const end of ends) expect(end?.digest).toBe(first.digest);
  return first;
}

const bytesAt = ({ space }: Pod, address: number, bytes: number): Uint8Array => space.bytesAt(address, bytes).slice();

/** Of the main model's last layer, the rows that the group's gates have seen, ever. */
const rowsOfLast = ({ space, programs }: Pod, ranks: number): number =>
  programs.slice(0, ranks).reduce((sum, { forward: { config, layout } }) => {
    const at = offsetOf(layout.counts[config.layers - 1] ?? 0) / 4;
    const counts = space.wordsOf(layout.base).subarray(at, at + config.moe.experts);
    return sum + counts.reduce((all, count) => all + count, 0) / config.moe.topK;
  }, 0);

/** What an entry's rows are read for, by the rules that a reader of its plan goes by. */
function readOf({ tokens, samples, drafts, start, foresees }: StepEntry, { prompt, prompt_logprobs }: Asked): number {
  if (foresees >= 0 || (prompt_logprobs >= 0 && start < prompt.length - 1)) return tokens.length;
  return samples ? 1 + drafts : 1;
}

/** `cut_from`: steps of so many rows are two micro-batches. */
type Shape = { readonly ranks: number; readonly logprobs: number; readonly masked: readonly number[] | undefined; readonly cut_from: number };

/** Both pods take the same steps until all sequences have what they asked for, which is returned. `expected`: what they will draw, as far as that is known. */
function compare(
  read: Pod,
  all: Pod,
  asked: readonly Asked[],
  { ranks, logprobs, masked, cut_from }: Shape,
  expected: readonly (readonly number[])[] = [],
): (readonly number[])[] {
  const growing = asked.map((one): Growing => ({ ...one, tokens: [...one.prompt], computed: 0, drawn: 0, turn: 0 }));
  const before = rowsOfLast(read, ranks);
  let rows = 0;
  for (let step = 1; ; step++) {
    const under = growing.flatMap((one, slot) => (one.drawn < one.output ? [{ one, slot }] : []));
    if (under.length === 0) break;
    const entries = under.map(({ one, slot }) => entryOf(one, slot, expected[slot] ?? [], logprobs));
    const detach = step === 1 ? Array.from({ length: SEQUENCES }, (_, slot) => slot) : [];
    const plan: StepPlan = { step, after: 0, detach, entries, ...(masked !== undefined && { masked }) };
    const [ofRead, ofAll] = [run(read, ranks, plan), run(all, ranks, plan)];
    expect(ofRead).toEqual(ofAll);
    if (logprobs >= 0) {
      const logitsOf = (pod: Pod): Uint8Array => {
        const { layout, config } = (pod.programs[0] as StepProgram).forward;
        return bytesAt(pod, layout.scratch.logits, 4 * config.vocabSize * 4);
      };
      expect(Buffer.compare(logitsOf(read), logitsOf(all))).toBe(0);
    }
    const inStep = entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
    rows += inStep >= cut_from ? inStep : entries.reduce((sum, entry) => sum + readOf(entry, asked[entry.slot] as Asked), 0);
    for (const [index, { one }] of under.entries()) {
      const { samples, tokens, drafts } = entries[index] as StepEntry;
      const { token, more } = ofRead.outcomes[index] as StepOutcome;
      one.turn++;
      if (!samples) {
        one.computed += tokens.length;
        continue;
      }
      one.tokens.push(token, ...more.map((drawn) => drawn.token));
      one.computed += tokens.length - drafts + more.length;
      one.drawn += 1 + more.length;
    }
  }
  expect(rowsOfLast(read, ranks) - before).toBe(rows);
  for (const [index, { forward }] of read.programs.slice(0, ranks).entries()) {
    const other = (all.programs[index] as StepProgram).forward.layout.kv;
    const { address, block_bytes, blocks } = forward.layout.kv;
    expect(Buffer.compare(bytesAt(read, address, blocks * block_bytes), bytesAt(all, other.address, blocks * block_bytes))).toBe(0);
  }
  return growing.map(({ prompt, tokens, output }) => tokens.slice(prompt.length, prompt.length + output));
}

const SIZES = { kv_blocks: SEQUENCES * BLOCKS_OF_EACH, kv_block_size: BLOCK_SIZE, max_batch_tokens: TOKENS_MAX, max_batch_requests: SEQUENCES } as const;
const RECORDED = { records_routing: true } as const;
const MTP = { speculative: { method: 'mtp', tokens: 2, lookup_max: 5, lookup_min: 5, adaptive: false } } as const;
const INT8 = { dispatch_dtype: 'int8', combine_dtype: 'int8', kv_cache_dtype: 'int8' } as const;
const NEVER = Number.POSITIVE_INFINITY;

type Case = {
  readonly topology: string;
  readonly ranks?: number;
  readonly masked?: readonly number[];
  readonly cut_from?: number;
  readonly options?: Partial<PlanOptions>;
};

const HASHED: readonly Case[] = [
  { topology: 'colocated:dp=1' },
  { topology: 'colocated:dp=1,tp=2', ranks: 2 },
  { topology: 'colocated:dp=1,tp=3', ranks: 3 },
  { topology: 'colocated:dp=2' },
  { topology: 'colocated:dp=2', masked: [1] },
  { topology: 'colocated:dp=2,oproj=2' },
  { topology: 'moe-attention:domains=1x1,experts=2', options: { micro_batches: 1 } },
  { topology: 'moe-attention:domains=1x1,experts=2', options: { micro_batches: 2 }, cut_from: TWO_BATCHES_ROWS_MIN },
  { topology: 'moe-attention:domains=1x1,experts=2', options: { schedule: 'domains' }, cut_from: 0 },
];

const COMPUTED: readonly (Case & { readonly model: ModelName })[] = [
  { model: 'tiny-deepseek-v3', topology: 'colocated:dp=1' },
  { model: 'tiny-deepseek-v3', topology: 'colocated:dp=1,tp=2', ranks: 2 },
  { model: 'tiny-deepseek-v3', topology: 'colocated:dp=1', options: MTP },
  { model: 'tiny-qwen3-moe', topology: 'colocated:dp=1,tp=3', ranks: 3 },
  { model: 'tiny-qwen3-moe', topology: 'colocated:dp=2', options: INT8 },
  { model: 'tiny-kimi-k2', topology: 'colocated:dp=2,oproj=2' },
  { model: 'tiny-kimi-k2', topology: 'moe-attention:domains=1x1,experts=2', options: { ...INT8, micro_batches: 1 } },
];

const withoutDrafts = (asked: readonly Asked[]): Asked[] => asked.map((one) => ({ ...one, drafts: 0 }));

describe('a step whose last layer computes the rows that are read', () => {
  it.each(cases(HASHED))(
    'should leave all as it is where all rows are computed: hash model, %o',
    ({ topology, ranks = 1, masked, cut_from = NEVER, options }) => {
      const made = { ...SIZES, topology: parseTopology(topology), ...options };
      const [read, all] = [makeHashPod(0, made), makeHashPod(0, { ...made, ...RECORDED })];
      const shape = { ranks, masked, cut_from, logprobs: -1 };
      fc.assert(
        fc.property(askedOf({ logprobs: false, drafts: true, foresees: false }), (asked) => {
          const drawn = compare(read, all, withoutDrafts(asked), shape);
          expect(compare(read, all, asked, shape, drawn)).toEqual(drawn);
        }),
        { numRuns: runs(40) },
      );
    },
  );

  it.each(cases(COMPUTED))(
    'should leave all as it is where all rows are computed: %o',
    async ({ model, topology, ranks = 1, masked, cut_from = NEVER, options }) => {
      const made = { ...SIZES, topology: parseTopology(topology), ...options };
      const folder = folderOf(model);
      const [read, all] = [await loadBareModel(folder, made), await loadBareModel(folder, { ...made, ...RECORDED })];
      const shape = { ranks, masked, cut_from, logprobs: 2 };
      const drafts = options?.speculative === undefined;
      fc.assert(
        fc.property(askedOf({ logprobs: true, drafts, foresees: !drafts }), (asked) => {
          const drawn = compare(read, all, withoutDrafts(asked), shape);
          if (drafts) expect(compare(read, all, asked, shape, drawn)).toEqual(drawn);
        }),
        { numRuns: runs(15) },
      );
    },
  );
});
