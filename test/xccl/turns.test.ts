/** DP domains at the experts in turn: iterations of ranks that have steps and ranks that have none, in both forms, and what becomes of them when somebody dies. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { split } from './a2e-rig.ts';
import { expectedSum, sameBits } from './exchange-rig.ts';
import { numbers, randomPick } from './rig.ts';
import { type DomainsShape, Rig } from './turns-rig.ts';
import { TurnThread } from './turns-thread.ts';

const POLLS_MAX = 400_000;

const shapeOf = (domains: number, attention: number, experts: number, micro_batches: number, rounds: number, seed: number, spares = 0): DomainsShape => ({
  ...{ domains, attention, experts, micro_batches, rounds, spares },
  shape: split(attention, experts, 4, 2, 3, Math.max(8, experts), seed),
});

/** Lets all go on in random order until nobody has a step, giving out `steps` more meanwhile; `disturb`: at each poll. */
function drive(rig: Rig, steps: number, seed: number, disturb: (poll: number) => void = () => {}): void {
  const pick = randomPick(seed);
  const next = numbers(seed + 1);
  let given = 0;
  for (let poll = 0; ; poll++) {
    if (poll === POLLS_MAX) throw new Error(`after ${poll} polls ${given} of ${steps} steps were given`);
    const npu = pick(rig.count);
    if (given < steps && npu < rig.attention && !rig.isBusy(npu) && !rig.isLost(npu) && next() < 0.1) rig.start(npu, given++);
    disturb(poll);
    rig.poll(npu);
    rig.dies.clock.advance(0.001);
    const isIdle = Array.from({ length: rig.attention }, (_, die) => die).every((die) => !rig.isBusy(die));
    if (given === steps && isIdle) return;
  }
}

type WhenTold = {
  readonly threads: number;
  readonly seed: number;
  /** At each turn. */
  readonly disturb?: (turn: number, threadOf: (npu: number) => TurnThread) => void;
  /** Until then who waits may wait for what disturbs. */
  readonly turns_min: number;
};

/** Gives out 12 steps to NPUs spread over threads that look only when they are told to, as workers do. */
function driveWhenTold(rig: Rig, { threads, seed, disturb = () => {}, turns_min }: WhenTold): void {
  const STEPS = 12;
  const pick = randomPick(seed);
  const next = numbers(seed + 1);
  const workers = Array.from({ length: threads }, (_, thread) => new TurnThread(rig, thread, threads));
  const threadOf = (npu: number): TurnThread => workers[npu % threads] as TurnThread;
  let given = 0;
  for (let turn = 0; ; turn++) {
    const npu = pick(rig.attention);
    // Rarely, so that most iterations have ranks without a step.
    if (given < STEPS && !rig.isBusy(npu) && next() < 0.02) threadOf(npu).start(npu, given++);
    disturb(turn, threadOf);
    const ready = workers.filter((worker) => worker.hasWork());
    ready[pick(Math.max(1, ready.length))]?.turn();
    rig.dies.clock.advance(0.001);
    if (ready.length > 0 || turn < turns_min) continue;
    // Also while there are more steps to give: the next one would wake somebody.
    const waiting = Array.from({ length: rig.attention }, (_, npu) => npu).filter((npu) => rig.isBusy(npu));
    if (waiting.length > 0) throw new Error(`at turn ${turn} NPUs ${waiting.join(', ')} wait, and nobody looks any more`);
    if (given === STEPS) return;
  }
}

function expectSums(rig: Rig): number {
  const { shape, rounds, micro_batches } = rig.shape;
  let checked = 0;
  for (const [npu, sums] of rig.sums.entries()) {
    for (const [name, sum] of sums) {
      const [step, round] = name.split(' ').map(Number) as [number, number];
      const batch = { ...rig.batchOf(npu, step, round), shared: null };
      sameBits(
        sum,
        expectedSum(shape, batch, 'f32', () => 'f32'),
        `NPU ${npu} in round ${round} of step ${step}`,
      );
      expect(round).toBeLessThan(rounds * micro_batches);
      checked++;
    }
  }
  return checked;
}

const SHAPES = {
  domains: fc.integer({ min: 1, max: 3 }),
  attention: fc.integer({ min: 1, max: 4 }),
  experts: fc.integer({ min: 1, max: 5 }),
  micro_batches: fc.integer({ min: 1, max: 2 }),
  rounds: fc.integer({ min: 1, max: 3 }),
  segments: fc.constantFrom(...SEGMENTS),
  seed: fc.nat(),
} as const;

describe('DP domains at the experts in turn', () => {
  it('should sum as one rank alone would, whoever of them has something to do, in any order of polls', () => {
    fc.assert(
      fc.property(fc.record(SHAPES), ({ domains, attention, experts, micro_batches, rounds, segments, seed }) => {
        const rig = new Rig(shapeOf(domains, attention, experts, micro_batches, rounds, seed), segments, seed);
        const STEPS = 8;
        drive(rig, STEPS, seed);
        expect(rig.failures).toEqual([]);
        expect(expectSums(rig)).toBe(STEPS * rounds * micro_batches);
      }),
      { numRuns: runs(60) },
    );
  });

  it('should let domains take turns: none is computed twice while another waits', () => {
    const rig = new Rig(shapeOf(3, 2, 2, 2, 4, 1), 2, 1);
    for (let npu = 0; npu < rig.attention; npu++) rig.start(npu, npu);
    // All attention ranks ask before any expert looks: so all three domains wait.
    for (let round = 0; round < 40; round++) for (let npu = 0; npu < rig.count; npu++) rig.poll(npu);
    expect(rig.failures).toEqual([]);
    expect(expectSums(rig)).toBe(6 * 4 * 2);
    const turns = rig.computed[rig.attention]?.map((entry) => Number(entry[0])) ?? [];
    expect(turns).toHaveLength(3 * 4 * 2);
    for (let turn = 0; turn + 3 <= 18; turn += 3) expect(new Set(turns.slice(turn, turn + 3)).size).toBe(3);
  });

  it('should cost nothing where there is nothing to do: no field is written by a domain without steps', () => {
    const rig = new Rig(shapeOf(2, 2, 3, 2, 2, 1), 1, 1);
    for (let round = 0; round < 50; round++) for (let npu = 0; npu < rig.count; npu++) rig.poll(npu);
    expect(rig.computed.flat()).toEqual([]);
    expect(rig.dies.arrivals.every((count) => count === 0)).toBe(true);
    rig.start(0, 1);
    for (let round = 0; round < 100; round++) for (let npu = 0; npu < rig.count; npu++) rig.poll(npu);
    expect(rig.isBusy(0)).toBe(false);
    // Ranks 2 and 3 are the other domain.
    expect(rig.dies.arrivals.slice(2, 4)).toEqual([0, 0]);
    expect(new Set(rig.computed.flat().map((entry) => entry[0]))).toEqual(new Set(['0']));
  });

  it('should say that nothing goes on while all wait for one: nobody is polled again for nothing', () => {
    const rig = new Rig(shapeOf(1, 3, 3, 2, 2, 1), 1, 1);
    rig.start(0, 1);
    const asleep = rig.attention + 2;
    const moves: boolean[] = [];
    for (let round = 0; round < 40; round++) {
      moves.length = 0;
      for (let npu = 0; npu < rig.count; npu++) if (npu !== asleep && npu !== 0) moves.push(rig.takePart(npu));
      rig.poll(0);
    }
    expect(moves).toEqual(moves.map(() => false));
    // At each look of the one they wait for they may go on; when it looks no more, they wait again.
    for (let look = 0; look < 30; look++) {
      rig.poll(asleep);
      for (let round = 0; round < 40; round++) {
        moves.length = 0;
        for (let npu = 0; npu < rig.count; npu++) if (npu !== asleep && npu !== 0) moves.push(rig.takePart(npu));
        rig.poll(0);
      }
      expect(moves).toEqual(moves.map(() => false));
    }
    expect(rig.isBusy(0)).toBe(false);
  });

  it('should end all steps where NPUs are looked at only when something has come for them, also when one is given up', () => {
    fc.assert(
      fc.property(
        fc.record({ ...SHAPES, threads: fc.integer({ min: 1, max: 4 }), fails: fc.nat(300), late: fc.nat(60) }),
        ({ domains, attention, experts, micro_batches, rounds, segments, seed, threads, fails, late }) => {
          const rig = new Rig(shapeOf(domains, attention, experts, micro_batches, rounds, seed), segments, seed);
          const turns_min = fails + late;
          const disturb: WhenTold['disturb'] = (turn, threadOf) => {
            if (turn === fails) threadOf(0).fail(0);
            if (turn === turns_min) threadOf(0).giveUp(0);
          };
          driveWhenTold(rig, { threads, seed, turns_min, disturb });
          expect(rig.failures).toEqual([]);
          expectSums(rig);
        },
      ),
      { numRuns: runs(80) },
    );
  });

  it('should go on with nothing when a step is given up, so that the others end theirs', () => {
    fc.assert(
      fc.property(fc.record({ ...SHAPES, at: fc.integer({ min: 0, max: 300 }) }), ({ domains, experts, micro_batches, rounds, segments, seed, at }) => {
        const rig = new Rig(shapeOf(domains, 3, experts, micro_batches, rounds, seed), segments, seed);
        drive(rig, 8, seed, (poll) => {
          if (poll === at) rig.giveUp(0);
        });
        expect(rig.failures).toEqual([]);
        expectSums(rig);
      }),
      { numRuns: runs(25) },
    );
  });
});

describe('when an NPU dies in the midst of rounds', () => {
  it('should fail the steps of its domains as lost, and all of them begin anew, wherever its successor sits and whoever hears of it when', () => {
    let failed = 0;
    fc.assert(
      fc.property(
        fc.record({ ...SHAPES, victim: fc.nat(), moves: fc.boolean(), at: fc.integer({ min: 0, max: 400 }), hears: fc.integer({ min: 1, max: 400 }) }),
        ({ domains, attention, experts, micro_batches, rounds, segments, seed, victim: any, moves, at, hears }) => {
          const rig = new Rig(shapeOf(domains, attention, experts, micro_batches, rounds, seed, 1), segments, seed, 1e9);
          const victim = any % rig.count;
          const next = numbers(seed + 2);
          const hear = Array.from({ length: rig.count }, () => at + Math.ceil(next() * hears));
          drive(rig, 12, seed, (poll) => {
            if (poll === at) rig.kill(victim, moves);
            for (const [npu, when] of hear.entries()) if (poll === when && npu !== victim) rig.reseat(npu);
          });
          for (const { code } of rig.failures) expect(code).toBe('worker_lost');
          failed += rig.failures.length;
          expectSums(rig);
          // Where it died in another domain's attention, this domain has noticed nothing.
          for (const { npu } of rig.failures) if (victim < rig.attention) expect(Math.floor(npu / attention)).toBe(Math.floor(victim / attention));
        },
      ),
      { numRuns: runs(60) },
    );
    expect(failed).toBeGreaterThan(15);
  });

  it('should go on where NPUs are looked at only when something has come for them, also when an expert fails', () => {
    fc.assert(
      fc.property(
        fc.record({
          ...SHAPES,
          threads: fc.integer({ min: 1, max: 4 }),
          victim: fc.nat(),
          moves: fc.boolean(),
          dies: fc.nat(600),
          late: fc.nat(300),
          fails: fc.nat(40),
        }),
        ({ domains, attention, experts, micro_batches, rounds, segments, seed, threads, victim: any, moves, dies, late, fails }) => {
          const rig = new Rig(shapeOf(domains, attention, experts, micro_batches, rounds, seed, 1), segments, seed, 1e9);
          const victim = any % rig.count;
          const next = numbers(seed + 2);
          const hears = Array.from({ length: rig.count }, () => dies + 1 + Math.floor(next() * late));
          let computed = 0;
          rig.onCompute = () => {
            if (computed++ === fails) throw new Error('an expert fails');
          };
          const disturb: WhenTold['disturb'] = (turn, threadOf) => {
            if (turn === dies) rig.kill(victim, moves);
            for (const [npu, when] of hears.entries()) if (when === turn) threadOf(npu).hear(npu);
          };
          driveWhenTold(rig, { threads, seed, turns_min: Math.max(...hears), disturb });
          for (const { code } of rig.failures) expect(code).toBe('worker_lost');
          expectSums(rig);
        },
      ),
      {
        numRuns: runs(60),
        // The others begin the domain's next life before one that has a step hears of it.
        examples: [
          [
            {
              ...{ domains: 1, attention: 2, experts: 1, micro_batches: 2, rounds: 3, segments: 1, seed: 971_911_999, threads: 3 },
              ...{ victim: 0, moves: false, dies: 2, late: 0, fails: 15 },
            },
          ],
        ],
      },
    );
  });

  it('should go on without those that have no successor, and with them again when they are back, whoever hears of it when', () => {
    let [failed, checked] = [0, 0];
    fc.assert(
      fc.property(
        fc.record({
          ...SHAPES,
          victims: fc.array(fc.record({ any: fc.nat(), at: fc.nat(400), back: fc.option(fc.nat(400)), moves: fc.boolean() }), { minLength: 1, maxLength: 3 }),
          late: fc.integer({ min: 1, max: 200 }),
        }),
        ({ domains, attention, experts, micro_batches, rounds, segments, seed, victims, late }) => {
          const rig = new Rig(shapeOf(domains, attention, experts, micro_batches, rounds, seed, 3), segments, seed, 1e9);
          const next = numbers(seed + 2);
          const events = new Map<number, (() => void)[]>();
          const at = (poll: number, act: () => void): void => void events.set(poll, [...(events.get(poll) ?? []), act]);
          const tellAll = (poll: number): void => {
            for (let npu = 0; npu < rig.count; npu++) at(poll + Math.ceil(next() * late), () => rig.reseat(npu));
          };
          const living = (first: number, end: number): number =>
            Array.from({ length: end - first }, (_, npu) => first + npu).filter((npu) => !rig.isLost(npu)).length;
          for (const { any, at: poll, back, moves } of victims) {
            const victim = any % rig.count;
            at(poll, () => {
              // Somebody is left of each kind.
              if (rig.isLost(victim) || (victim < rig.attention ? living(0, rig.attention) : living(rig.attention, rig.count)) === 1) return;
              rig.lose(victim);
              tellAll(poll);
              // When all have let go of it.
              if (back === null) return;
              const again = poll + late + 1 + back;
              at(again, () => rig.bringBack(victim, moves));
              tellAll(again);
            });
          }
          let last = 0;
          drive(rig, 12, seed, (poll) => {
            last = poll;
            for (const act of events.get(poll) ?? []) act();
          });
          expect(rig.failures.filter(({ code }) => code !== 'worker_lost')).toEqual([]);
          failed += rig.failures.length;
          // When all know all they go on; who comes to a life that he has been in ends it, once for each loss.
          for (const [poll, acts] of [...events].sort(([a], [b]) => a - b)) if (poll > last) for (const act of acts) act();
          for (let npu = 0; npu < rig.count; npu++) rig.reseat(npu);
          const before = rig.failures.length;
          drive(rig, 6, seed + 3);
          for (const { code } of rig.failures.slice(before)) expect(code).toBe('worker_lost');
          expect(rig.failures.length - before).toBeLessThanOrEqual(rig.attention * victims.length);
          checked += expectSums(rig);
        },
      ),
      { numRuns: runs(60) },
    );
    expect(failed).toBeGreaterThan(runs(10));
    expect(checked).toBeGreaterThan(runs(600));
  });

  it('should name whom they wait for at the deadline, and begin anew without it', () => {
    const rig = new Rig(shapeOf(1, 2, 3, 2, 2, 1), 1, 1, 100);
    const silent = rig.attention + 1;
    rig.start(0, 1);
    for (let round = 0; round < 30; round++) for (let npu = 0; npu < rig.count; npu++) if (npu !== silent) rig.poll(npu);
    expect(rig.failures).toEqual([]);
    rig.dies.clock.advance(101);
    for (let npu = 0; npu < rig.count; npu++) if (npu !== silent) rig.poll(npu);
    expect(rig.failures).toHaveLength(1);
    expect(rig.failures[0]).toMatchObject({ npu: 0, code: 'deadline_exceeded' });
    expect(rig.failures[0]?.message).toMatch(/^E2A of round 1 at rank 0 waited 101 ms for rank 3$/);
    rig.start(1, 2);
    drive(rig, 0, 3);
    expect(rig.failures).toHaveLength(1);
    expect(expectSums(rig)).toBe(4);
  });

  it('should end the life of its domain where an expert fails, and no other', () => {
    const rig = new Rig(shapeOf(2, 2, 3, 2, 3, 1), 1, 1);
    for (let npu = 0; npu < rig.attention; npu++) rig.start(npu, npu);
    let rounds = 0;
    rig.onCompute = (_, { membership: { domain } }) => {
      if (domain.id === 1 && ++rounds === 5) throw new Error('an expert fails');
    };
    drive(rig, 0, 5);
    expect(rig.failures.map(({ npu, code }) => `${npu} ${code}`).sort()).toEqual(['2 worker_lost', '3 worker_lost']);
    for (let npu = 2; npu < rig.attention; npu++) rig.start(npu, 10 + npu);
    drive(rig, 0, 6);
    expect(rig.failures).toHaveLength(2);
    expectSums(rig);
    expect(rig.sums[3]?.size).toBeGreaterThanOrEqual(6);
  });
});
