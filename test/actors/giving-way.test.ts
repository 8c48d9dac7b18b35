/** What becomes of the blocks of a sequence that gives way, where there is a DRAM below HBM: those that are needed go, the rest is copied out. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Planned } from '../../actors/policies/step-entry.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { address } from '../../src/protocol/address.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import { greedySequence } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';
import { expectedOutput, FakeNpu } from './fake-npu.ts';

const BLOCK = 4;
/** Copying is sooner than computing, always. */
const COSTS = {
  ...{ dram_fixed_us: 0, dram_us_per_block: 1, remote_fixed_us: 0, remote_us_per_block: 1 },
  ...{ compute_us_per_token: 1_000, attention_us_per_position: 0 },
};
const LIMITS = {
  kv_block_size: BLOCK,
  has_prefix_cache: true,
  has_priorities: true,
  dram_blocks: 100,
  cache_costs: COSTS,
  lends_by_layer: false,
  offers_max: 8,
  shares_prefixes: false,
} as const;
const BUDGET = 64;

/** A scheduler, its NPU, and copies that end when the test says so. */
class Rig {
  readonly scheduler: StepScheduler;
  readonly npu = new FakeNpu(BLOCK, BUDGET);
  readonly output = new Map<number, number[]>();
  underWay: TierCopy[] = [];
  preempted = 0;
  copied = 0;

  constructor(kv_blocks: number, is_asynchronous: boolean, requests: number) {
    this.scheduler = new StepScheduler({ ...LIMITS, kv_blocks, is_asynchronous, batch_tokens_max: BUDGET, batch_requests_max: requests }, 'dp-group/0');
  }

  enqueue(request: number, prompt: readonly number[], max_tokens: number): void {
    this.output.set(request, []);
    this.scheduler.enqueue(address('task', request), greedySequence(request, [...prompt], max_tokens));
  }

  /** The step that is planned now, having checked that nobody was given what is to be copied out; null: none is. */
  plan(): Planned['plan'] | null {
    const planned = this.scheduler.plan();
    const given = new Set(planned?.plan.entries.flatMap(({ blocks, shared }) => blocks.slice(shared)));
    const messages = planned?.messages ?? this.scheduler.takeUntold();
    this.preempted += messages.filter(({ message }) => message.type === 'PREEMPTED').length;
    for (const copy of this.scheduler.takeTransfers() as TierCopy[]) {
      this.npu.copy(copy);
      this.underWay.push(copy);
      if (copy.kind !== 'swap-out') continue;
      this.copied += copy.from.blocks.length;
      expect(copy.from.blocks.filter((block) => given.has(block))).toEqual([]);
    }
    return planned?.plan ?? null;
  }

  run(plan: Planned['plan']): void {
    for (const { message } of this.scheduler.retire(this.npu.run(plan)))
      if (message.type === 'TOKENS') for (const { request, token } of message.tokens) this.output.get(request)?.push(token);
  }

  end(copy: TierCopy): void {
    this.underWay = this.underWay.filter((other) => other !== copy);
    this.scheduler.transferEnded(copy.id, null);
  }
}

describe('a sequence that gives way', () => {
  it('should have copied out what nobody was given when it did, whoever comes and however long copies take; and all get their tokens', () => {
    let copied = 0;
    let preempted = 0;
    const scenario = fc.record({
      kv_blocks: fc.integer({ min: 4, max: 16 }),
      is_asynchronous: fc.boolean(),
      prompts: fc.array(fc.integer({ min: 1, max: 15 }), { minLength: 2, maxLength: 6 }),
      max_tokens: fc.integer({ min: 1, max: 30 }),
      /** After how many steps each copy ends, in turn. */
      delays: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 8 }),
    });
    fc.assert(
      fc.property(scenario, ({ kv_blocks, is_asynchronous, prompts, max_tokens, delays }) => {
        const rig = new Rig(kv_blocks, is_asynchronous, 4);
        const tokens = Math.min(max_tokens, kv_blocks * BLOCK - 15);
        for (const [request, length] of prompts.entries()) rig.enqueue(request, tokensOf(request, length), tokens);
        const plans: Planned['plan'][] = [];
        const due = new Map<TierCopy, number>();
        for (let step = 0; rig.scheduler.hasWork || plans.length > 0 || rig.underWay.length > 0; step++) {
          expect(step).toBeLessThan(5_000);
          for (const copy of rig.underWay) {
            if (!due.has(copy)) due.set(copy, step + (delays[due.size % delays.length] as number));
            if ((due.get(copy) as number) <= step) rig.end(copy);
          }
          for (let ahead = 0; ahead < 2; ahead++) {
            const plan = rig.plan();
            if (plan === null) break;
            plans.push(plan);
          }
          const plan = plans.shift();
          if (plan !== undefined) rig.run(plan);
        }
        for (const [request, length] of prompts.entries())
          expect(rig.output.get(request)).toEqual(expectedOutput(greedySequence(request, tokensOf(request, length), tokens)));
        expect(rig.scheduler.cache.used).toBe(0);
        copied += rig.copied;
        preempted += rig.preempted;
      }),
      { numRuns: runs(200) },
    );
    expect([copied > 200, preempted > 50]).toEqual([true, true]);
  });

  it('should lose a block for each that an older one needs, then and while the rest is copied out, and find all others in DRAM', () => {
    const shape = fc.record({ blocks: fc.integer({ min: 3, max: 8 }), taken: fc.integer({ min: 1, max: 7 }) });
    fc.assert(
      fc.property(shape, ({ blocks, taken }) => {
        fc.pre(taken < blocks);
        // Both fill the HBM to the last position, and the older one goes on.
        const rig = new Rig(2 * blocks, false, 2);
        for (const request of [0, 1]) rig.enqueue(request, tokensOf(request, blocks * BLOCK), taken * BLOCK);
        while (rig.preempted === 0) rig.run(rig.plan() as Planned['plan']);
        // Nothing of it was cold before: one transfer has it all.
        expect(rig.underWay.map(({ kind, from }) => [kind, from.blocks?.length])).toEqual([['swap-out', blocks - 1]]);
        for (let more = 0; more < (taken - 1) * BLOCK; more++) rig.run(rig.plan() as Planned['plan']);
        for (const copy of rig.underWay) rig.end(copy);
        expect(rig.scheduler.cache.dram_blocks_used).toBe(blocks - taken);
      }),
      { numRuns: runs(40) },
    );
  });
});

const tokensOf = (request: number, length: number): number[] => Array.from({ length }, (_, index) => 1_000 * request + index);
