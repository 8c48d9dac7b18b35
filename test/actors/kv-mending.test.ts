/** Memory that goes bad under the step scheduler: the tokens stay what they are, and only what lay there is computed again. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import type { SchedulerLimits } from '../../actors/policies/scheduler-limits.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { address } from '../../src/protocol/address.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { StepPlan } from '../../src/protocol/steps.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import { greedySequence } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';
import { HBM_ALONE } from './cache-memory.ts';
import { Damage, expectedOutput, FakeNpu } from './fake-npu.ts';

const BLOCK = 4;
const LIMITS: SchedulerLimits = {
  ...{ kv_blocks: 40, kv_block_size: BLOCK, has_prefix_cache: true, is_asynchronous: true, has_priorities: true, dram_blocks: 0, cache_costs: null },
  ...{ lends_by_layer: false, offers_max: 8, shares_prefixes: false, batch_tokens_max: 16, batch_requests_max: 4 },
};

type Spoiling = { readonly step: number; readonly which: number };
type Run = {
  readonly output: readonly (readonly number[])[];
  readonly ends: readonly string[];
  readonly spoiled: number;
  readonly found: number;
  readonly tokens: number;
};

/** Lets sequences that begin alike run to their ends; before some steps a block goes bad that somebody reads. `masked_from`: the first step that does without experts. */
function run(
  limits: Partial<SchedulerLimits>,
  prompts: readonly { readonly length: number; readonly family: number; readonly max_tokens: number }[],
  spoilings: readonly Spoiling[],
  masked_from = Number.POSITIVE_INFINITY,
): Run & { readonly scheduler: StepScheduler } {
  const scheduler = new StepScheduler({ ...LIMITS, ...limits }, 'dp-group/0');
  const npu = new FakeNpu(BLOCK, limits.batch_tokens_max ?? LIMITS.batch_tokens_max);
  const output: number[][] = prompts.map(() => []);
  const ends: string[] = [];
  const hear = (messages: readonly Commands['send'][]): void => {
    for (const { message } of messages) {
      if (message.type === 'TOKENS') for (const { request, token } of message.tokens) output[request]?.push(token);
      if (message.type === 'GENERATED' || message.type === 'GENERATION_FAILED') ends.push(message.type);
    }
  };
  for (const [request, { length, family, max_tokens }] of prompts.entries())
    hear(
      scheduler.enqueue(
        address('task', request),
        greedySequence(
          request,
          Array.from({ length }, (_, index) => 1_000 * family + index),
          max_tokens,
        ),
      ),
    );
  let [spoiled, found] = [0, 0];
  let launched: StepPlan[] = [];
  for (let step = 0; scheduler.hasWork || scheduler.isStepping; step++) {
    expect(step).toBeLessThan(4_000);
    if (step === masked_from) scheduler.masked = [1];
    for (let planned = scheduler.plan(); planned !== null; planned = scheduler.plan()) {
      hear(planned.messages);
      launched.push(planned.plan);
    }
    for (const { which } of spoilings.filter((spoiling) => spoiling.step === step)) {
      const block = npu.read[which % Math.max(1, npu.read.length)];
      if (block === undefined) continue;
      npu.spoil(block);
      spoiled++;
    }
    const plan = launched.shift();
    if (plan === undefined) continue;
    try {
      hear(scheduler.retire(npu.run(plan)));
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      found += error.blocks.length;
      launched = [];
      hear(scheduler.mend(error.blocks));
    }
  }
  return { output, ends, spoiled, found, tokens: npu.tokens, scheduler };
}

describe('KV in memory that goes bad', () => {
  it('should change no token, and leave the pod with all blocks but the bad ones', () => {
    let all = 0;
    fc.assert(
      fc.property(
        fc.record({
          prompts: fc.array(
            fc.record({ length: fc.integer({ min: 1, max: 24 }), family: fc.integer({ min: 0, max: 1 }), max_tokens: fc.integer({ min: 1, max: 12 }) }),
            {
              minLength: 1,
              maxLength: 6,
            },
          ),
          spoilings: fc.array(fc.record({ step: fc.integer({ min: 1, max: 25 }), which: fc.nat(100) }), { minLength: 1, maxLength: 8 }),
          is_asynchronous: fc.boolean(),
          has_prefix_cache: fc.boolean(),
          drafts_max: fc.integer({ min: 0, max: 3 }),
          foresight: fc.constantFrom(0, 0, 1, 2),
          foreseers: fc.integer({ min: 1, max: 2 }),
          batch_tokens_max: fc.integer({ min: 2, max: 30 }),
          kv_blocks: fc.integer({ min: 18, max: 40 }),
          masked_from: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.nat(25)),
        }),
        ({ prompts, spoilings, masked_from, ...limits }) => {
          const { output, ends, spoiled, found, scheduler } = run(limits, prompts, spoilings, masked_from);
          expect(output).toEqual(
            prompts.map(({ length, family, max_tokens }, request) =>
              expectedOutput(
                greedySequence(
                  request,
                  Array.from({ length }, (_, index) => 1_000 * family + index),
                  max_tokens,
                ),
              ),
            ),
          );
          expect(ends).toEqual(prompts.map(() => 'GENERATED'));
          expect(found).toBeLessThanOrEqual(spoiled);
          expect(scheduler.cache.blocks).toBe(limits.kv_blocks - found);
          expect(scheduler.cache.used).toBe(0);
          all += found;
        },
      ),
      { numRuns: runs(400) },
    );
    expect(all).toBeGreaterThan(runs(400));
  });

  it('should have what lay there computed again, and the step that found it, and no more', () => {
    const prompts = [{ length: 64, family: 0, max_tokens: 24 }];
    const whole = run({}, prompts, []);
    const { output, found, tokens } = run({}, prompts, [{ step: 12, which: 3 }]);
    expect(output).toEqual(whole.output);
    expect(found).toBe(1);
    // A block of 4, and the step that was launched behind the one that found it was never run.
    expect(tokens - whole.tokens).toBe(BLOCK + 1);
  });

  it.each([
    ['all of it where experts were done without', 0, 64 + 8 + 1],
    // What it found was whole until then, and is kept; the bad block was the fourth.
    ['what follows it too where they are from now on', 12, 64 + 8 + 1 - 3 * BLOCK],
  ])('should have computed again %s', (_, masked_from, positions) => {
    const prompts = [{ length: 64, family: 0, max_tokens: 24 }];
    const whole = run({}, prompts, []);
    const { output, found, tokens, scheduler } = run({}, prompts, [{ step: 12, which: 3 }], masked_from);
    expect([output, found, scheduler.preemptions, scheduler.cache.used]).toEqual([whole.output, 1, 1, 0]);
    expect(tokens - whole.tokens).toBe(positions);
  });

  it('should keep nothing in a bad block, though its holder has it for itself alone', () => {
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 4 });
    const tokens = [1, 2, 3, 4, 5, 6, 7, 8];
    const [first, twin] = [cache.matchByPrefixToken('', tokens, 8), cache.matchByPrefixToken('', tokens, 8)];
    for (const holding of [first, twin]) {
      cache.allocBlocks(holding, 2);
      cache.publish(holding, tokens, 8);
    }
    // The first one's are used, so the twin's are in no path.
    expect(twin.path).toEqual([]);
    const bad = twin.blocks[0] as number;
    cache.free(first, tokens, 8);
    cache.drop();
    cache.mapOut([bad]);
    cache.free(twin, tokens, 8);
    expect([cache.blocks, cache.used, cache.cached]).toEqual([3, 0, 0]);
    expect(cache.canAllocate(4)).toBe(false);
    expect(cache.allocBlocks(cache.matchByPrefixToken('', tokens, 8), 3)).not.toContain(bad);
  });

  it('should give no choice of a prompt the tail of it that went bad, though another still copies it, and count it no more', () => {
    const scheduler = new StepScheduler({ ...LIMITS, is_asynchronous: false }, 'dp-group/0');
    const npu = new FakeNpu(BLOCK, LIMITS.batch_tokens_max);
    const begin = (choice: number): void => {
      scheduler.enqueue(address('task', choice), greedySequence(1, [1, 2, 3, 4, 5, 6], 12, choice));
    };
    const plan = (): StepPlan => scheduler.plan()?.plan as StepPlan;
    begin(0);
    scheduler.retire(npu.run(plan()));
    begin(1);
    const step = plan();
    const [copy] = scheduler.takeTransfers() as [TierCopy];
    expect(copy.kind).toBe('copy');
    const [bad] = copy.from.blocks as [number];
    npu.spoil(bad);
    expect(() => npu.run(step)).toThrow(Damage);
    scheduler.mend([bad]);
    // The owner's two: who had the copy made has let go of it.
    expect([scheduler.cache.used, scheduler.cache.mapped_out]).toEqual([2, 1]);
    begin(2);
    scheduler.retire(npu.run(plan()));
    expect(scheduler.takeTransfers().filter(({ kind }) => kind === 'copy')).toEqual([]);
  });

  it('should fail nobody but those who need more blocks than are left', () => {
    const prompts = [
      { length: 16, family: 0, max_tokens: 8 },
      { length: 70, family: 1, max_tokens: 10 },
    ];
    const { ends, output } = run({ kv_blocks: 20 }, prompts, [{ step: 6, which: 0 }]);
    expect(ends.toSorted()).toEqual(['GENERATED', 'GENERATION_FAILED']);
    expect(output[0]).toHaveLength(8);
  });
});
