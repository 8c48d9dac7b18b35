/** All-gather: every rank ends with the same whole table, or with an error that says who is missing; nothing of a step that was given up passes for a later one's. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AllGather, type Table } from '../../src/xccl/all-gather.ts';
import { CHANNEL, FIELD_BYTES } from '../../src/xccl/areas.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs, SEED } from '../property-runs.ts';
import { computePart, faultOf, type GatherArgs, gatherRounds, type Split, tableOf } from './gather-rounds.ts';
import { errorOf } from './pair.ts';
import { type Dies, makeDies, numbers, randomPick, succeed } from './rig.ts';
import { onThreads } from './rig-threads.ts';

/** Random splits; ranks without a part are among them. */
function splitsOf(ranks: number, rounds: number, seed: number): Split[] {
  const next = numbers(seed);
  return Array.from({ length: rounds }, () => {
    const words = Math.floor(next() * 20);
    const cuts = Array.from({ length: ranks - 1 }, () => Math.floor(next() * (words + 1))).sort((a, b) => a - b);
    return { rows: Math.floor(next() * 7), words, bounds: [0, ...cuts, words].map((word) => 4 * word) };
  });
}

const gathersOf = ({ endpoints }: Dies, ranks = endpoints.length): AllGather[] =>
  endpoints.slice(0, ranks).map((endpoint, rank) => new AllGather(endpoint, rank, ranks, (peer) => peer));

describe.each(SEGMENTS)('all-gather over %i segments', (segments) => {
  it('gives every rank the whole table, round after round, however it is split and whoever is polled first', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 9 }), fc.nat(), (ranks, rounds, seed) => {
        const dies = makeDies(ranks, { segments });
        const splits = splitsOf(ranks, rounds, seed);
        const faults: string[] = [];
        const programs = gathersOf(dies).map((gather, rank) => gatherRounds(gather, dies.endpoints[rank] as Endpoint, splits, seed, 1_000, faults));
        succeed(programs, { pick: randomPick(seed) });
        expect(faults).toEqual([]);
      }),
      { numRuns: runs(100) },
    );
  });

  it('is broken by a rank that is given up, and begins anew with its successor: nothing of the broken step is taken for the next', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 4 }), fc.integer({ min: 1, max: 5 }), fc.nat(), (ranks, mishaps, seed) => {
        const group = new Group(makeDies(ranks, { segments }), seed);
        for (let mishap = 0; mishap < mishaps; mishap++) group.breakOnce();
        group.finishStep();
        expect(group.faults).toEqual([]);
      }),
      { numRuns: runs(150) },
    );
  });
});

const ROUNDS = 5;
const SPLIT_BYTES = 48;

/** A group whose ranks are killed in the midst of a step and rolled back one after the other, as on threads that do not know of one another. */
class Group {
  readonly faults: string[] = [];
  readonly #dies: Dies;
  readonly #next: () => number;
  readonly #splits: readonly Split[];
  #gathers: AllGather[];
  #step = 1;
  /** Of steps, in all lives. */
  #attempt = 0;
  /** By rank: rounds ended of the step at hand. */
  readonly #rounds: number[];

  constructor(dies: Dies, seed: number) {
    this.#dies = dies;
    this.#next = numbers(seed);
    const ranks = dies.endpoints.length;
    const share = SPLIT_BYTES / 4 / ranks;
    const bounds = Array.from({ length: ranks + 1 }, (_, rank) => 4 * Math.floor(rank * share));
    this.#splits = Array.from({ length: ROUNDS }, (_, round) => ({ rows: 1 + (round % 3), words: SPLIT_BYTES / 4, bounds }));
    this.#gathers = gathersOf(dies);
    this.#rounds = this.#gathers.map(() => 0);
    this.#begin();
  }

  /** Polls for a while, kills a rank, lets the others go on a little, then rolls all of them back in random order. */
  breakOnce(): void {
    const ranks = this.#gathers.length;
    this.#poll(Math.floor(this.#next() * 30));
    const victim = Math.floor(this.#next() * ranks);
    this.#dies.space.control.raiseEpochOfDie(victim);
    this.#poll(Math.floor(this.#next() * 10));
    const order = Array.from({ length: ranks }, (_, rank) => rank).sort(() => this.#next() - 0.5);
    for (const rank of order) {
      if (rank === victim) {
        this.#dies.endpoints[rank] = new Endpoint(rank, this.#dies.surroundings);
        this.#gathers[rank] = new AllGather(this.#dies.endpoints[rank] as Endpoint, rank, ranks, (peer) => peer);
      } else {
        (this.#dies.endpoints[rank] as Endpoint).refresh(victim);
        (this.#gathers[rank] as AllGather).reset();
      }
      this.#rounds[rank] = ROUNDS;
      // Those not rolled back yet still publish what nobody wants.
      this.#poll(Math.floor(this.#next() * 4));
    }
    this.#step = victim === 0 ? 1 : this.#step + 1;
    this.#begin();
  }

  finishStep(): void {
    for (let polls = 0; this.#rounds.some((round) => round < ROUNDS); polls++) {
      if (polls > 10_000) throw new Error(`rounds ${this.#rounds} after ${polls} polls`);
      this.#poll(1);
    }
  }

  #begin(): void {
    this.#attempt++;
    for (const rank of this.#gathers.keys()) {
      this.#rounds[rank] = 0;
      this.#start(rank);
    }
  }

  #tableOf(rank: number): Table {
    const round = this.#rounds[rank] as number;
    return tableOf(this.#splits[round] as Split, (this.#dies.endpoints[rank] as Endpoint).areas.gather, round);
  }

  #start(rank: number): void {
    const round = this.#rounds[rank] as number;
    const table = this.#tableOf(rank);
    computePart(this.#dies.space, table, this.#splits[round] as Split, rank, this.#attempt, round);
    (this.#gathers[rank] as AllGather).start(this.#step, 'a table', table, 1_000);
  }

  #poll(polls: number): void {
    for (let poll = 0; poll < polls; poll++) {
      const rank = Math.floor(this.#next() * this.#gathers.length);
      const round = this.#rounds[rank] as number;
      const gather = this.#gathers[rank] as AllGather;
      if (round === ROUNDS) continue;
      const { state } = gather.poll();
      if (state === 'failed') this.#rounds[rank] = ROUNDS;
      if (state !== 'done') continue;
      const fault = faultOf(this.#dies.space, this.#tableOf(rank), this.#splits[round] as Split, this.#attempt, round);
      if (fault !== '') this.faults.push(`attempt ${this.#attempt}, rank ${rank}, ${fault}`);
      this.#rounds[rank] = round + 1;
      if (round + 1 < ROUNDS) this.#start(rank);
    }
  }
}

describe('all-gather', () => {
  const SPLIT: Split = { rows: 2, words: 6, bounds: [0, 8, 16, 24] };
  const begin = (dies: Dies, gathers: readonly AllGather[], ranks: readonly number[], round = 0, change: Partial<Table> = {}): void => {
    for (const rank of ranks) {
      const table = tableOf(SPLIT, (dies.endpoints[rank] as Endpoint).areas.gather, round);
      computePart(dies.space, table, SPLIT, rank, 1, round);
      (gathers[rank] as AllGather).start(1, 'heads', { ...table, ...change }, 100);
    }
  };

  it('names the ranks that it waits for, until its deadline and in its error', () => {
    const dies = makeDies(3);
    const gathers = gathersOf(dies);
    begin(dies, gathers, [0, 1]);
    expect(gathers[0]?.poll()).toEqual({ state: 'pending', missing: [2] });
    dies.clock.advance(101);
    expect(errorOf(gathers[0]?.poll())).toBe('deadline_exceeded: gather 1 (heads of step 1) at rank 0 waited 101 ms for rank 2');
  });

  it('names the rank that was given up, at the next poll', () => {
    const dies = makeDies(3);
    const gathers = gathersOf(dies);
    begin(dies, gathers, [0, 1, 2]);
    dies.space.control.raiseEpochOfDie(1);
    expect(errorOf(gathers[2]?.poll())).toBe('worker_lost: gather 1 (heads of step 1) at rank 2 ended: rank 1 (die 1) was given up while it was under way');
    expect(errorOf(gathers[1]?.poll())).toBe('worker_lost: gather 1 (heads of step 1) at rank 1 ended: rank 1 (die 1) was given up while it was under way');
  });

  it('tells ranks that compute different steps apart, and tables that lead out of the area', () => {
    const dies = makeDies(3);
    const gathers = gathersOf(dies);
    begin(dies, gathers, [0]);
    begin(dies, gathers, [1], 0, { rows: 1 });
    expect(errorOf(gathers[0]?.poll())).toMatch(/rank 1 gathers 1 rows as number 1, gather 1 \(heads of step 1\) at rank 0 has 2$/);
    const far = makeDies(3);
    const away = gathersOf(far);
    begin(far, away, [0]);
    const { gather, gather_bytes } = (far.endpoints[1] as Endpoint).areas;
    begin(far, away, [1], 0, { address: gather + gather_bytes - 8 });
    expect(errorOf(away[0]?.poll())).toMatch(/^memory_fault: rank 1 \(die 1\) says that 40 bytes lie at offset 8184 of its gather area, which has 8192/);
  });

  it('passes over what a rank has said of a gather that is over, and comes once more', () => {
    const dies = makeDies(3);
    const gathers = gathersOf(dies);
    const { metadata, peer_bytes } = (dies.endpoints[0] as Endpoint).areas;
    const field = dies.space.bytesAt(metadata + peer_bytes + CHANNEL.gatherOdd * FIELD_BYTES, FIELD_BYTES);
    let stale = field.slice();
    for (let round = 0; round < 4; round++) {
      begin(dies, gathers, [0, 1, 2], round);
      if (round === 0) stale = field.slice();
      for (const gather of gathers) expect(gather.poll().state).toBe('done');
    }
    begin(dies, gathers, [0, 2], 4);
    field.set(stale);
    expect(gathers[0]?.poll()).toEqual({ state: 'pending', missing: [1] });
    begin(dies, gathers, [1], 4);
    for (const gather of gathers) expect(gather.poll().state).toBe('done');
  });

  it('refuses the same table twice in a row: a peer may still read it', () => {
    const dies = makeDies(3);
    const gathers = gathersOf(dies);
    begin(dies, gathers, [0, 1, 2]);
    for (const gather of gathers) expect(gather.poll().state).toBe('done');
    expect(() => begin(dies, gathers, [0])).toThrow(/two gathers in a row are of different tables/);
    begin(dies, gathers, [0], 1);
  });
});

it.each([
  [2, 2, 1],
  [3, 2, 2],
])('all-gather of %i ranks on %i threads over %i segments: no part is torn, late or of another round', async (ranks, threads, segments) => {
  const splits = splitsOf(ranks, 500, SEED);
  const program = new URL('gather-rounds.ts', import.meta.url);
  const results = await onThreads<GatherArgs, string[]>(ranks, { threads, segments }, program, () => ({ splits, seed: SEED, timeout_ms: 20_000 }));
  expect(results, `seed ${SEED}`).toEqual(Array.from({ length: threads }, () => []));
});
