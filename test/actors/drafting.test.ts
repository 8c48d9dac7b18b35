/** How many drafts pay: decided by what came of those before and by what steps take, for machines and texts of every sort. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DecodeCosts } from '../../actors/policies/decode-costs.ts';
import { Drafting, newDraftHistory } from '../../actors/policies/drafting.ts';
import { newRunningSequence } from '../../actors/policies/running-sequence.ts';
import { noteDrafts } from '../../actors/policies/step-drafts.ts';
import type { Launched, Planned } from '../../actors/policies/step-entry.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { address } from '../../src/protocol/address.ts';
import type { Sequence } from '../../src/protocol/messages.ts';
import type { StepEntry, StepOutcome } from '../../src/protocol/steps.ts';
import { greedySequence } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';

/** `round`: what a round of drafts takes, of a step of as many rows; 0: they are looked up. */
type World = {
  readonly base_us: number;
  readonly row_us: number;
  readonly round: number;
  readonly acceptance: number;
  readonly sequences: number;
  readonly seed: number;
};
const world: fc.Arbitrary<World> = fc.record({
  base_us: fc.integer({ min: 50, max: 20_000 }),
  row_us: fc.integer({ min: 1, max: 1_000 }),
  round: fc.constantFrom(0, 0.02, 0.1, 0.25),
  acceptance: fc.double({ min: 0, max: 0.98, noNaN: true }),
  sequences: fc.integer({ min: 1, max: 12 }),
  seed: fc.nat(),
});

const LIMITS = {
  ...{ kv_blocks: 100, kv_block_size: 4, batch_tokens_max: 64, batch_requests_max: 4, has_prefix_cache: true, is_asynchronous: false, has_priorities: false },
  ...{ dram_blocks: 0, cache_costs: null, lends_by_layer: false, offers_max: 8, shares_prefixes: false, drafts_max: 2, drafts_as_pays: true, foresight: 2 },
} as const;
const DRAFTS_MAX = 4;
const TOKENS = 400;
/** A step now and then is held up by something else. */
const HELD_UP = 0.03;

const outcomeOf = (drafts: number, right: number): StepOutcome => ({
  ...{ token: 1, logprobs: null, prompt_logprobs: null, error: null },
  more: Array.from({ length: right }, () => ({ token: 1, logprobs: null })),
  drafts: Array.from({ length: drafts }, () => 1),
});

/** A step that decodes one sequence without drafts, and computes so many behind it. */
function stepOf(sequence: Sequence, foresees: number): { launched: readonly Launched[]; outcomes: readonly StepOutcome[] } {
  const running = newRunningSequence(address('task', 1), sequence, 'whole', [], { rank: 0, arrival: 0 });
  return { launched: [{ running, count: 1, samples: true, drafts: 0, foresees }], outcomes: [outcomeOf(0, 0)] };
}

/** Microseconds for a token of requests, always so many at once. `drafts`: of each step, instead of as many as pay. */
function usPerToken({ base_us, row_us, round: share, acceptance, sequences, seed }: World, drafts?: number): number {
  let state = seed;
  const chance = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  const drafting = new Drafting({ drafts_max: DRAFTS_MAX });
  const open = Array.from({ length: sequences }, () => ({ history: newDraftHistory(), tokens: 0 }));
  let [us, tokens] = [0, 0];
  while (tokens < 2 * TOKENS * sequences) {
    let [rows, drafts_us] = [0, 0];
    const lengths: number[] = [];
    for (const one of open) {
      if (one.tokens >= TOKENS) Object.assign(one, { history: newDraftHistory(), tokens: 0 });
      const length = drafts ?? drafting.lengthFor(one.history, sequences, DRAFTS_MAX);
      drafting.launch(one.history, length);
      let right = 0;
      while (right < length && chance() < acceptance) right++;
      rows += 1 + length;
      lengths.push(length);
      drafting.note(one.history, outcomeOf(length, right), length, sequences);
      one.tokens += 1 + right;
      tokens += 1 + right;
    }
    const took_us = base_us + row_us * rows;
    for (let at = 0; share > 0 && at < Math.max(...lengths); at++) {
      const drafted = lengths.filter((length) => length > at).length;
      const round_us = share * (base_us + row_us * drafted);
      drafting.noteRounds(1, drafted, round_us);
      drafts_us += round_us;
    }
    drafting.noteTime(took_us + drafts_us, sequences);
    drafting.costs.add(rows, chance() < HELD_UP ? 20 * took_us : Math.round(took_us * (0.95 + 0.1 * chance())));
    us += took_us + drafts_us;
  }
  return us / tokens;
}

describe('drafts as they pay', () => {
  it('should never cost more than a thirtieth where few are right, nor much wherever it is a near thing', () => {
    fc.assert(
      fc.property(world, fc.constantFrom(0, 0.1), (any, acceptance) => {
        const hostile = { ...any, acceptance };
        expect(usPerToken(hostile, 0) / usPerToken(hostile)).toBeGreaterThan(0.97);
        expect(usPerToken(any, 0) / usPerToken(any)).toBeGreaterThan(0.85);
      }),
      { numRuns: runs(20) },
    );
  });

  it('should be nearly as many as would have been best, for any cost and any share of right ones', () => {
    fc.assert(
      fc.property(world, (any) => {
        const best = Math.min(...Array.from({ length: DRAFTS_MAX + 1 }, (_, drafts) => usPerToken(any, drafts)));
        const chosen = usPerToken(any);
        expect(best / chosen).toBeGreaterThan(0.8);
      }),
      { numRuns: runs(20) },
    );
    const cheap = { base_us: 20_000, row_us: 50, round: 0, acceptance: 0.9, sequences: 4, seed: 1 };
    expect(usPerToken(cheap) / usPerToken(cheap, 0)).toBeLessThan(0.3);
    expect(usPerToken({ ...cheap, base_us: 50 }) / usPerToken({ ...cheap, base_us: 50 }, 0)).toBeGreaterThan(0.9);
  });

  it('should be none where computing them costs more than they bring, though verifying them would pay', () => {
    const drafting = new Drafting({ drafts_max: DRAFTS_MAX });
    for (let step = 0; step < 100; step++) drafting.costs.add(1 + (step % 3), 1_000 + 20 * (1 + (step % 3)));
    const lengthNow = (): number => drafting.lengthFor({ ...newDraftHistory(), isTrying: false }, 1, DRAFTS_MAX);
    expect(lengthNow()).toBe(DRAFTS_MAX);
    // What a token takes, with 0, 1 and 2 drafts of which 0.75 are right: 1,020, (1,020 + 20 + 300) / 1.75 = 766, (1,020 + 2 × 320) / 2.31 = 718; with 3: 724.
    for (let step = 0; step < 100; step++) drafting.rounds.add(1 + (step % 3), 280 + 20 * (1 + (step % 3)));
    expect(lengthNow()).toBe(2);
    for (let step = 0; step < 300; step++) drafting.rounds.add(1 + (step % 3), 780 + 20 * (1 + (step % 3)));
    expect(lengthNow()).toBe(0);
  });

  it('should count the round of a second layer, in what steps took and in what is expected of the next', () => {
    const drafting = new Drafting({ drafts_max: DRAFTS_MAX, foreseers: 2 });
    for (let step = 0; step < 100; step++) drafting.costs.add(1 + (step % 3), 1_000 + 20 * (1 + (step % 3)));
    const { launched, outcomes } = stepOf(greedySequence(1, [5, 6], 300), 2);
    for (let step = 0; step < 200; step++) noteDrafts(drafting, launched, outcomes, 2_000, 1_500);
    // Two for the first draft, one for the second.
    expect(drafting.rounds.line.base_us + drafting.rounds.line.row_us).toBeCloseTo(500, 0);
    const lengthWith = (foreseers: number): number => {
      const other = new Drafting({ drafts_max: DRAFTS_MAX, foreseers });
      for (let step = 0; step < 100; step++) other.costs.add(1 + (step % 3), 1_000 + 20 * (1 + (step % 3)));
      other.rounds.add(1, 500);
      return other.lengthFor({ ...newDraftHistory(), isTrying: false }, 1, DRAFTS_MAX);
    };
    // 1,020 a token without, (1,020 + 520) / 1.75 = 880 with one round, (1,020 + 1,020) / 1.75 and (1,020 + 1,540) / 2.31 with one more.
    expect(lengthWith(1)).toBe(1);
    expect(lengthWith(2)).toBe(0);
  });

  it('should not be tried where they would not pay were all of them right, but for one now and then', () => {
    const [base_us, row_us, round_us] = [100, 150, 130];
    const drafting = new Drafting({ drafts_max: 1 });
    let tries = 0;
    for (let request = 0; request < 100; request++) {
      const history = newDraftHistory();
      for (let tokens = 0; tokens < 96; ) {
        const drafts = drafting.lengthFor(history, 1, 1);
        drafting.launch(history, drafts);
        const right = drafts * (tries % 2);
        drafting.note(history, outcomeOf(drafts, right), drafts, 1);
        drafting.noteTime(base_us + row_us * (1 + drafts) + round_us * drafts, 1);
        drafting.costs.add(1 + drafts, base_us + row_us * (1 + drafts));
        if (drafts > 0) drafting.noteRounds(1, 1, round_us);
        tries += drafts;
        tokens += 1 + right;
      }
    }
    expect(tries).toBeGreaterThan(0);
    expect(tries).toBeLessThan((100 * 96) / 150);
  });

  it('should not even be tried while the rounds that compute them have taken more than drafts may lose', () => {
    const drafting = new Drafting({ drafts_max: 1 });
    for (let step = 0; step < 100; step++) drafting.costs.add(1 + (step % 3), 1_000 + 20 * (1 + (step % 3)));
    const tries = (): number => drafting.lengthFor(newDraftHistory(), 1, 1);
    expect(tries()).toBe(1);
    for (let step = 0; step < 100; step++) {
      drafting.noteRounds(1, 1, 700);
      drafting.noteTime(1_720, 1);
    }
    expect(tries()).toBe(0);
    // They are borne again when so much time has gone by without any.
    for (let step = 0; step < 10_000; step++) drafting.noteTime(1_020, 1);
    expect(tries()).toBe(1);
  });

  it('should still be tried after any time in which nothing was computed behind steps, though no time at all was measured there', () => {
    const drafting = new Drafting({ drafts_max: 1 });
    const history = newDraftHistory();
    const note = (drafts: number, foresees: number, us: number, draft_us: number): void => {
      const launched = { running: { drafting: history }, count: 1, samples: true, drafts, foresees } as unknown as Launched;
      noteDrafts(drafting, [launched], [outcomeOf(drafts, 0)], us, draft_us);
    };
    note(0, 1, 400, 100);
    note(1, -1, 700, 1);
    for (let step = 0; step < 1_000; step++) note(0, -1, 300, step % 2);
    expect(drafting.rounds.line.base_us + drafting.rounds.line.row_us).toBeCloseTo(100);
    expect(drafting.lengthFor(newDraftHistory(), 1, 1)).toBe(1);
  });

  it('should begin with one of each sequence, and go on though the first step of all was held up', () => {
    const drafting = new Drafting({ drafts_max: DRAFTS_MAX });
    const histories = Array.from({ length: 3 }, newDraftHistory);
    const lengths = (): number[] => histories.map((history) => drafting.lengthFor(history, 3, DRAFTS_MAX));
    expect(lengths()).toEqual([1, 1, 1]);
    drafting.costs.add(6, 20 * 18_000);
    drafting.costs.add(4, 17_700);
    drafting.costs.add(3, 17_500);
    for (const history of histories) drafting.note(history, outcomeOf(1, 1), 1, 3);
    for (const history of histories) history.isTrying = false;
    expect(Math.min(...lengths())).toBeGreaterThan(0);
  });

  it('should be as many again as pay, for a sequence too that waits since an estimate was off', () => {
    const drafting = new Drafting({ drafts_max: DRAFTS_MAX });
    const history = { ...newDraftHistory(), isTrying: false };
    for (const rows of [1, 2, 3]) drafting.costs.add(rows, 1_000 * rows);
    expect(drafting.lengthFor(history, 1, DRAFTS_MAX)).toBe(0);
    expect(history.wait).toBeGreaterThan(0);
    for (let step = 0; step < 300; step++) drafting.costs.add(1 + (step % 3), 1_000 + 20 * (1 + (step % 3)));
    expect(drafting.lengthFor(history, 1, DRAFTS_MAX)).toBe(DRAFTS_MAX);
  });

  it('should find what rows cost, whoever holds steps up now and then', () => {
    const costs = new DecodeCosts();
    for (let step = 0; step < 300; step++) costs.add(1 + (step % 5), (400 + 150 * (1 + (step % 5))) * (step % 17 === 0 ? 30 : 1));
    const { base_us, row_us } = costs.line;
    expect(Math.abs(base_us - 400)).toBeLessThan(60);
    expect(Math.abs(row_us - 150)).toBeLessThan(20);
  });
});

describe('drafts that layers compute', () => {
  const [task, none] = [address('task', 1), { logprobs: null, more: [], prompt_logprobs: null, error: null }];

  it('should begin again after a pause, with a hole behind which nothing is kept for others', () => {
    const scheduler = new StepScheduler(LIMITS, address('dp-group', 0));
    scheduler.enqueue(task, greedySequence(1, [5, 6, 7, 8, 9], 300));
    const foresees: number[] = [];
    for (let step = 0; scheduler.hasWork; step++) {
      const { entries } = (scheduler.plan() as Planned).plan;
      const [entry] = entries as [StepEntry];
      foresees.push(entry.foresees);
      // What is drafted is wrong, and a row costs as much as a step.
      const drafts = entry.drafts > 0 && (foresees.at(-2) ?? -1) > 0 ? [99] : [];
      scheduler.retire([{ token: 10 + step, ...none, drafts }], 100 * (entry.tokens.length + drafts.length), 0);
    }
    const pauses = foresees.join(' ').match(/(-1 ?)+/g) ?? [];
    expect(pauses.length).toBeGreaterThan(1);
    expect(foresees.slice(foresees.indexOf(-1)).filter((count) => count > 0).length).toBeGreaterThan(1);
    // 302 positions were computed.
    expect(scheduler.cache.cached).toBeLessThan(20);
  });
});
