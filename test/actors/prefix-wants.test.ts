/** Prefixes that are wanted of another DP group: asked for once, and waited for from then on. */
import { describe, expect, it } from 'vitest';
import { PrefixWants } from '../../actors/policies/prefix-wants.ts';
import { newRunningSequence, type RunningSequence } from '../../actors/policies/running-sequence.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { prefixOverdue, prefixWanted } from '../../src/protocol/constructors.ts';
import { greedySequence } from '../golden/greedy.ts';

const LINK = { dram_fixed_us: 0, dram_us_per_block: 0, remote_fixed_us: 10, remote_us_per_block: 1, compute_us_per_token: 1, attention_us_per_position: 0 };
const prompt = Array.from({ length: 40 }, (_, at) => at);
const sequenceHeldBy = (group: number): RunningSequence =>
  newRunningSequence('task/1', { ...greedySequence(1, prompt, 4), held: { group, tokens: 40 } }, 'whole', [], { rank: 0, arrival: 0 });

describe('a prefix that another group has', () => {
  it('should be asked for when its turn comes, once, and have its time from then on', () => {
    const wants = new PrefixWants('dp-group/0', 4, LINK);
    const running = sequenceHeldBy(1);
    wants.arrive(running);
    // However long it waits in line.
    expect(wants.take()).toEqual({ sends: [], timers: [] });
    expect(wants.ask(running, 8)).toBe(true);
    expect(wants.take()).toEqual({
      sends: [{ to: 'dp-group/1', message: prefixWanted('dp-group/0', 'task/1', '', prompt.slice(0, 36), 8) }],
      timers: [{ id: 'prefix-task/1', delay_ms: 250, message: prefixOverdue('task/1') }],
    });
    expect(wants.answered('task/1')).toEqual({ running, known: 8 });
    expect([wants.answered('task/1'), wants.ask(running, 8)]).toEqual([null, false]);
    expect(wants.take()).toEqual({ sends: [], timers: [] });
  });

  it('should be asked for as far as the next mark, which the guess does not reach', () => {
    const wants = new PrefixWants('dp-group/0', 4, LINK);
    const tokens = Array.from({ length: 70 }, (_, at) => at);
    const of = (held: number): RunningSequence =>
      newRunningSequence('task/1', { ...greedySequence(1, tokens, 4), held: { group: 1, tokens: held } }, 'whole', [], { rank: 0, arrival: 0 });
    for (const [held, wanted] of [
      [32, 60],
      [64, 68],
    ] as const) {
      const running = of(held);
      wants.arrive(running);
      expect(wants.ask(running, 0)).toBe(true);
      expect(wants.take().sends[0]?.message).toMatchObject({ tokens: tokens.slice(0, wanted) });
    }
    const running = of(32);
    wants.arrive(running);
    expect(wants.ask(running, 32)).toBe(false);
  });

  it('should not be asked for where it takes longer to come than to compute, or is here', () => {
    const wants = new PrefixWants('dp-group/0', 4, { ...LINK, remote_fixed_us: 29 });
    wants.arrive(sequenceHeldBy(1));
    // Seven blocks in 36 µs, computed in 28.
    expect([wants.ask(sequenceHeldBy(1), 8), wants.refused]).toEqual([false, 1]);
    const own = sequenceHeldBy(0);
    wants.arrive(own);
    expect([wants.ask(own, 0), wants.refused, wants.size]).toEqual([false, 1, 0]);
    expect(wants.take()).toEqual({ sends: [], timers: [] });
  });

  it('should be waited for by whoever begins alike, by what it takes over its own link: that to DRAM may be slow', () => {
    for (const [remote_us_per_block, waits] of [
      [1, true],
      // It has been asked for; by now nobody would.
      [1_000, false],
    ] as const) {
      const costs = { ...LINK, dram_fixed_us: 1e6 };
      const limits = { kv_block_size: 4, has_prefix_cache: true, is_asynchronous: false, has_priorities: true, cache_costs: costs, lends_by_layer: false };
      const sizes = { kv_blocks: 64, dram_blocks: 64, batch_tokens_max: 64, batch_requests_max: 4, offers_max: 8, shares_prefixes: true };
      const scheduler = new StepScheduler({ ...limits, ...sizes }, 'dp-group/0');
      scheduler.enqueue('task/1', { ...greedySequence(1, prompt, 4), held: { group: 1, tokens: 40 } });
      expect(scheduler.plan()).toBe(null);
      scheduler.coming.lent('dp-group/1', 'task/1', { npu: 1, die: 1, epoch: 1, slot: 0, serial: 1, blocks: [1, 2, 3, 4, 5, 6, 7, 8, 9] }, true);
      expect(scheduler.takeTransfers().map(({ kind }) => kind)).toEqual(['pull']);
      costs.remote_us_per_block = remote_us_per_block;
      scheduler.enqueue('task/2', greedySequence(2, prompt, 4));
      expect(scheduler.plan()?.plan.entries.map(({ start, tokens }) => [start, tokens.length]) ?? []).toEqual(waits ? [] : [[0, 40]]);
      expect([scheduler.coming.length, scheduler.coming.wants.refused, scheduler.coming.hits_refused]).toEqual(waits ? [2, 0, 0] : [1, 1, 0]);
    }
  });
});
