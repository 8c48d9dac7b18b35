/** The leader of a task executor's groups, and what it reckons with. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isClosed, type LeaderLimits, type Orders, PrefillLeader } from '../../actors/policies/prefill-leader.ts';
import { MARK_TOKENS, prefixMarks } from '../../actors/policies/prefix-marks.ts';
import { fitStepCost, prefill_us, UNMEASURED } from '../../actors/policies/step-cost.ts';
import { type Address, address } from '../../src/protocol/address.ts';
import type { GroupState, StepCost, Wanted } from '../../src/protocol/balancing.ts';
import { runs } from '../property-runs.ts';

const COST: StepCost = { base_us: 100, token_us: 10, attended_us: 0.01 };
const LIMITS: LeaderLimits = { batch_tokens_max: 64, long_tokens: 1_000, long_groups: 0, has_prefix_cache: true, has_priorities: true };
const wanted = (id: number, prompt_tokens: number, { marks = [] as readonly number[], priority = 0 } = {}): Wanted => ({
  task: address('task', id),
  prompt_tokens,
  marks,
  priority,
});
const idle = (group: number): GroupState => ({ group, backlog_tokens: 0, longest_tokens: 0, decodes: 0 });

/** Groups that prefill a step's worth of tokens when they are told to, and tell the leader what groups tell. */
class Groups {
  readonly backlogs = new Map<number, number>();
  readonly assigned: { readonly task: Address; readonly group: number }[] = [];
  readonly #leader: PrefillLeader;
  readonly #sizes: ReadonlyMap<Address, number>;
  readonly #owing = new Set<number>();
  asked = 0;

  constructor(leader: PrefillLeader, groups: readonly number[], sizes: ReadonlyMap<Address, number>) {
    this.#leader = leader;
    this.#sizes = sizes;
    for (const group of groups) this.backlogs.set(group, 0);
  }

  /** In this order, as messages come; nobody is asked who has not answered. */
  follow({ ask, assignments }: Orders): void {
    for (const { task, group } of assignments) {
      expect(isClosed(this.backlogs.get(group) ?? 0, LIMITS.batch_tokens_max)).toBe(false);
      expect(this.assigned.map((one) => one.task)).not.toContain(task);
      this.assigned.push({ task, group });
      this.backlogs.set(group, (this.backlogs.get(group) ?? 0) + (this.#sizes.get(task) ?? 0));
      this.#tell(group, task);
    }
    for (const group of ask) {
      this.asked++;
      this.#tell(group, null);
    }
  }

  compute(group: number): void {
    const backlog = Math.max(0, (this.backlogs.get(group) ?? 0) - LIMITS.batch_tokens_max);
    this.backlogs.set(group, backlog);
    if (this.#owing.has(group) && !isClosed(backlog, LIMITS.batch_tokens_max)) this.#tell(group, null);
  }

  #tell(group: number, task: Address | null): void {
    const backlog_tokens = this.backlogs.get(group) ?? 0;
    if (isClosed(backlog_tokens, LIMITS.batch_tokens_max)) this.#owing.add(group);
    else this.#owing.delete(group);
    this.follow(this.#leader.hear({ group, backlog_tokens, longest_tokens: backlog_tokens, decodes: 0 }, task));
  }
}

describe('a leader', () => {
  it('gives each task one group that has room, keeps the rest in one queue, and in the end all have one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.tuple(fc.integer({ min: 1, max: 400 }), fc.nat(3)), { minLength: 1, maxLength: 40 }),
        fc.nat(2),
        (count, calls, long_groups) => {
          const groups = Array.from({ length: count }, (_, group) => group);
          const leader = new PrefillLeader({ ...LIMITS, long_tokens: 200, long_groups }, COST);
          const sizes = new Map(calls.map(([tokens], id) => [address('task', id), tokens] as const));
          const them = new Groups(leader, groups, sizes);
          them.follow(leader.lead(groups, COST));
          for (const [id, [tokens, steps]] of calls.entries()) {
            them.follow(leader.want(wanted(id, tokens)));
            for (let step = 0; step < steps; step++) for (const group of groups) them.compute(group);
          }
          for (let step = 0; step < 500 && leader.waiting > 0; step++) for (const group of groups) them.compute(group);
          expect(leader.waiting).toBe(0);
          expect(them.assigned.length).toBe(calls.length);
          // Nobody asks while nobody waits: rounds are of those who came.
          expect(them.asked).toBeLessThanOrEqual(2 * count * calls.length);
        },
      ),
      { numRuns: runs(200) },
    );
  });

  it('prefers who holds the prefix, unless others have so much less to do', () => {
    const prompt = Array.from({ length: 2 * MARK_TOKENS }, (_, at) => at);
    const marks = prefixMarks('', prompt);
    const leader = new PrefillLeader(LIMITS, COST);
    leader.lead([0, 1], COST);
    const place = (id: number, backlogs: readonly [number, number]): number | undefined => {
      const states = backlogs.map((backlog_tokens, group) => ({ ...idle(group), backlog_tokens, longest_tokens: backlog_tokens }));
      expect(leader.want(wanted(id, prompt.length + 1, { marks })).ask).toEqual([0, 1]);
      leader.hear(states[0] as GroupState, null);
      const [assignment] = leader.hear(states[1] as GroupState, null).assignments;
      leader.hear(idle(assignment?.group ?? 0), address('task', id));
      return assignment?.group;
    };
    expect([place(1, [60, 0]), place(2, [0, 60]), place(3, [0, 100])]).toEqual([1, 1, 0]);
    expect(prefixMarks('other', prompt)[0]).not.toBe(marks[0]);
    expect(prefixMarks('', [...prompt.slice(0, 40), 7])).toEqual(marks.slice(0, 1));
  });

  it('keeps long and short apart, and very long ones on groups of their own', () => {
    const leader = new PrefillLeader({ ...LIMITS, long_groups: 1 }, COST);
    leader.lead([4, 5, 6], COST);
    expect(leader.want(wanted(1, 1_000)).ask).toEqual([6]);
    leader.want(wanted(2, 999));
    leader.want(wanted(3, 10));
    leader.hear(idle(4), null);
    leader.hear(idle(5), null);
    const { assignments } = leader.hear(idle(6), null);
    const groupOf = (id: number): number | undefined => assignments.find(({ task }) => task === address('task', id))?.group;
    expect(groupOf(1)).toBe(6);
    expect([groupOf(2), groupOf(3)].toSorted()).toEqual([4, 5]);
  });

  it('gives nothing to a group whose backlog fills two steps, and what comes next to one with a token less', () => {
    const placed = (backlog_tokens: number): readonly unknown[] => {
      const leader = new PrefillLeader(LIMITS, COST);
      leader.lead([0], COST);
      leader.want(wanted(1, 10));
      return leader.hear({ ...idle(0), backlog_tokens, longest_tokens: backlog_tokens }, null).assignments;
    };
    expect(placed(2 * LIMITS.batch_tokens_max)).toEqual([]);
    expect(placed(2 * LIMITS.batch_tokens_max - 1)).toEqual([{ task: 'task/1', group: 0 }]);
  });

  it('gives the first turn to the better priority, and each its turn in the end', () => {
    const leader = new PrefillLeader(LIMITS, COST);
    leader.lead([0], COST);
    leader.want(wanted(1, 200));
    leader.want(wanted(2, 200));
    leader.want(wanted(3, 200, { priority: -1 }));
    expect(leader.hear(idle(0), null).assignments).toEqual([{ task: 'task/3', group: 0 }]);
    for (let id = 4; id < 100; id++) leader.want(wanted(id, 200, { priority: -1 }));
    const turns: Address[] = [];
    while (turns.length < 90) {
      const last = turns.at(-1) ?? 'task/3';
      for (const { task } of leader.hear(idle(0), last).assignments) turns.push(task);
      for (const { task } of leader.hear(idle(0), null).assignments) turns.push(task);
    }
    expect(turns.indexOf('task/1')).toBeGreaterThan(50);
    expect(turns.indexOf('task/1')).toBeLessThan(70);
  });

  it('whose groups are lost counts on them no more, and forgets what they were given', () => {
    const leader = new PrefillLeader(LIMITS, COST);
    leader.lead([0, 1], COST);
    expect(leader.want(wanted(1, 10)).ask).toEqual([0, 1]);
    leader.hear(idle(0), null);
    // Group 1 never answers.
    expect(leader.lead([0], COST).assignments).toEqual([{ task: 'task/1', group: 0 }]);
    expect(leader.want(wanted(2, 10)).ask).toEqual([]);
    const { ask } = leader.lead([1], COST);
    expect(ask).toEqual([1]);
    expect(leader.hear(idle(1), null).assignments).toEqual([{ task: 'task/2', group: 1 }]);
  });
});

describe('the cost of a step', () => {
  it('is found again from steps that it explains, whatever they were', () => {
    const coefficient = fc.integer({ min: 0, max: 1_000 });
    fc.assert(
      fc.property(coefficient, coefficient, coefficient, (base_us, token_us, thousandths) => {
        const attended_us = thousandths / 1_000;
        const samples = [
          [1, 1],
          [1, 225],
          [8, 36],
          [32, 528],
          [32, 6_672],
        ].map(([tokens = 0, attended = 0]) => ({ tokens, attended, us: base_us + token_us * tokens + attended_us * attended }));
        const fitted = fitStepCost(samples);
        expect(fitted.base_us).toBeCloseTo(base_us, 3);
        expect(fitted.token_us).toBeCloseTo(token_us, 3);
        expect(fitted.attended_us).toBeCloseTo(attended_us, 3);
      }),
      { numRuns: runs(100) },
    );
  });

  it('is never negative, however the samples lie, and known to be unknown without any', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ tokens: fc.integer({ min: 1, max: 64 }), attended: fc.nat(9_999), us: fc.nat(9_999) }), { maxLength: 8 }), (samples) => {
        for (const value of Object.values(fitStepCost(samples))) expect(value).toBeGreaterThanOrEqual(0);
      }),
    );
    expect(fitStepCost([])).toEqual(UNMEASURED);
    expect(prefill_us(COST, 0, 128, 64, 0)).toBe(2 * 100 + 128 * 10 + 0.01 * ((128 * 129) / 2));
  });
});
