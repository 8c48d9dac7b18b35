/** Dispatch and combine when a rank dies, when the domain ends, when memory lies or is too small. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AllToAll } from '../../src/xccl/all-to-all.ts';
import { CHANNEL } from '../../src/xccl/areas.ts';
import { stampOf } from '../../src/xccl/arrivals.ts';
import { createDomain, destroyDomain, recreateWithout } from '../../src/xccl/domain.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import { domainTag } from '../../src/xccl/message.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import type { WireKernels } from '../../src/xccl/wire-format.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { allToAllRounds, colocated, makeAllToAll, placeOf } from './all-to-all-rig.ts';
import { type Batch, type Desk, type Desks, layBatch, makeBatch, makeDesks, type Shape } from './exchange-rig.ts';
import { failureOf, survivorsOf } from './mishaps.ts';
import { randomPick, run, succeed } from './rig.ts';

const SHAPE: Shape = colocated(4, 8, 2, 4, 8, 1);

function startDispatch(desks: Desks, die: number, tokens: number, exchange = makeAllToAll(placeOf(desks, die), SHAPE)): Operation {
  const desk = desks.desks[die] as Desk;
  return exchange.dispatch({ tokens, rows: desk.rows, experts: desk.experts, weights: desk.weights, format: 'f32', timeout_ms: 100 });
}

/** Four tokens that go everywhere. */
const fullBatch = (die: number): Batch => ({
  ...makeBatch({ ...SHAPE, tokens_max: 0 }, 1, die, 0),
  tokens: 4,
  rows: new Float32Array(4 * SHAPE.hidden).fill(die + 1),
  experts: Uint32Array.from([0, 1, 2, 3, 4, 5, 6, 7]),
  weights: new Float32Array(8).fill(1),
});

describe('a rank that falls silent', () => {
  it('is named, and it alone, by every other one at its deadline, wherever it stopped', () => {
    const silent = { naming: 0, done: 0 };
    fc.assert(
      fc.property(
        fc.record({
          ranks: fc.integer({ min: 2, max: 8 }),
          victim: fc.nat(),
          polls: fc.integer({ min: 0, max: 30 }),
          segments: fc.constantFrom(...SEGMENTS),
          seed: fc.nat(),
        }),
        ({ ranks, victim: any, polls, segments, seed }) => {
          const victim = any % ranks;
          const shape = colocated(ranks, 5, 2, 3, 9, seed);
          const desks = makeDesks(ranks, shape, segments);
          const programs = desks.domain.dies.map((die) => allToAllRounds(placeOf(desks, die), shape, seed, 3, 100));
          const ends = survivorsOf(programs, victim, polls, desks.clock, seed);
          // Either it had said all that the others needed, or none of them comes through.
          const isDone = ends.every(({ state }) => state === 'done');
          silent[isDone ? 'done' : 'naming']++;
          if (isDone) return;
          for (const end of ends) {
            const { code, message } = failureOf(end);
            expect(code).toBe('deadline_exceeded');
            expect(message).toMatch(new RegExp(`^(dispatch|combine) of round \\d at rank \\d waited \\d+ ms for rank ${victim}$`));
          }
        },
      ),
      { numRuns: runs(100) },
    );
    expect(silent.naming).toBeGreaterThan(runs(20));
  });

  it('is missing in every poll until then', () => {
    const desks = makeDesks(4, SHAPE, 2);
    const operations = [0, 1, 3].map((die) => startDispatch(desks, die, 0));
    for (const operation of operations) operation.poll();
    for (const operation of operations) expect(operation.poll()).toEqual({ state: 'pending', missing: [2] });
    desks.clock.advance(99);
    expect(operations[0]?.poll().state).toBe('pending');
    desks.clock.advance(1);
    const end = operations[0]?.poll();
    expect(failureOf(end).message).toBe('dispatch of round 1 at rank 0 waited 100 ms for rank 2');
    // The same again, and nothing that comes later changes it.
    startDispatch(desks, 2, 0);
    expect(operations[0]?.poll()).toBe(end);
    expect(operations[1]?.poll().state).toBe('done');
  });
});

describe('a domain that ends in the middle', () => {
  it('ends every operation at its next poll; without a rank, or with all, the same dies and areas go on in the next', () => {
    fc.assert(
      fc.property(fc.record({ polls: fc.integer({ min: 0, max: 200 }), lost: fc.integer({ min: 0, max: 5 }), seed: fc.nat() }), ({ polls, lost, seed }) => {
        const shape = colocated(5, 7, 2, 4, 10, seed);
        const desks = makeDesks(5, shape, 2);
        const programs = desks.domain.dies.map((die) => allToAllRounds(placeOf(desks, die), shape, seed, 50));
        const pick = randomPick(seed);
        for (let poll = 0; poll < polls; poll++) programs[pick(5)]?.poll();
        let next = desks.domain;
        if (lost < 5) next = recreateWithout(desks.space.control, desks.domain, lost);
        else {
          destroyDomain(desks.space.control, desks.domain);
          next = createDomain(desks.space.control, desks.domain.id, desks.domain.dies);
        }
        // A turn or two of a program are the test's own.
        const ends = run(programs, { polls_max: 5 * 4 }).map(failureOf);
        for (const { code, message } of ends) {
          expect(code).toBe('closed');
          expect(message).toContain('domain 0 was destroyed while it was under way');
        }
        const smaller = colocated(next.dies.length, 7, 2, 4, 10, seed + 1);
        succeed(
          next.dies.map((die) => allToAllRounds(placeOf(desks, die, next), smaller, seed, 3)),
          { pick },
        );
      }),
      { numRuns: runs(40) },
    );
  });

  it('takes no further step of an exchange that failed', () => {
    const desks = makeDesks(4, SHAPE, 2);
    const exchange = makeAllToAll(placeOf(desks, 0), SHAPE);
    const operation = startDispatch(desks, 0, 0, exchange);
    destroyDomain(desks.space.control, desks.domain);
    expect(failureOf(operation.poll()).code).toBe('closed');
    expect(() => startDispatch(desks, 0, 0, exchange)).toThrow(/no dispatch at rank 0 after a failure .*: make a new domain/);
  });
});

describe('a die that was given up', () => {
  it('is named by the others at once, and what it wrote before and writes on is not heard', () => {
    const desks = makeDesks(4, SHAPE, 2);
    startDispatch(desks, 2, 0);
    const late = makeAllToAll(placeOf(desks, 3), SHAPE);
    const operations = [0, 1].map((die) => startDispatch(desks, die, 0));
    desks.space.control.raiseEpochOfDie(2);
    desks.space.control.raiseEpochOfDie(3);
    const own = startDispatch(desks, 3, 0, late);
    expect(failureOf(own.poll()).message).toBe('dispatch of round 1 at rank 3 ended: rank 3 (die 3) was given up while it was under way');
    for (const end of run(operations)) expect(failureOf(end).message).toMatch(/ended: rank [23] \(die [23]\) was given up/);
    // Its end knows its own epoch only: a write past all checks is stale.
    const before = desks.endpoints[0]?.counters.stale as number;
    desks.endpoints[3]?.write(0, CHANNEL.combine, 0, 0, 0, domainTag(desks.domain), stampOf(1, 0));
    expect(desks.endpoints[0]?.newEventFrom(3, CHANNEL.combine)).toBe(0);
    expect(desks.endpoints[0]?.counters.stale).toBe(before + 1);
  });

  it('or a domain that is destroyed, while rows are pulled: the very poll that pulled them fails and says so, wherever in the pull it was', () => {
    const given = (step: 'dispatch' | 'combine', mishap: 'given up' | 'destroyed', at: number): boolean => {
      const desks = makeDesks(4, SHAPE, 2);
      let count = 0;
      let armed = false;
      const touched = (): void => {
        if (!armed || ++count !== at) return;
        if (mishap === 'given up') desks.space.control.raiseEpochOfDie(2);
        else destroyDomain(desks.space.control, desks.domain);
      };
      // Rows of this segment are read by kernels where they lie, those of the other are copied here first.
      const watched = (kernels: WireKernels): WireKernels => ({
        ...kernels,
        dequantizeInt8: (...args) => {
          kernels.dequantizeInt8(...args);
          touched();
        },
      });
      const exchanges = desks.domain.dies.map((die) => {
        const place = placeOf(desks, die);
        return makeAllToAll({ ...place, kernels: watched(place.kernels) }, SHAPE);
      });
      const start = (die: number, which: typeof step): Operation => {
        const desk = desks.desks[die] as Desk;
        if (which === 'combine')
          return (exchanges[die] as AllToAll).combine({ rows: desk.answers, format: 'int8', into: desk.into, shared: 0, timeout_ms: 100 });
        layBatch(desks.space, desk, fullBatch(die));
        return startDispatch(desks, die, 4, exchanges[die]);
      };
      if (step === 'combine') succeed([0, 1, 2, 3].map((die) => start(die, 'dispatch')));
      const operations = [0, 1, 2, 3].map((die) => start(die, step));
      const { space } = desks;
      const copy = space.copy.bind(space);
      space.copy = (to, from, bytes) => {
        copy(to, from, bytes);
        touched();
      };
      armed = true;
      const end = operations[0]?.poll();
      if (count < at) return false;
      expect(failureOf(end).message).toBe(
        `${step} of round 1 at rank 0 ended: ${mishap === 'given up' ? 'rank 2 (die 2) was given up' : 'domain 0 was destroyed'} while it was under way`,
      );
      return true;
    };
    for (const step of ['dispatch', 'combine'] as const) {
      for (const mishap of ['given up', 'destroyed'] as const) {
        let pulls = 0;
        while (given(step, mishap, pulls + 1)) pulls++;
        expect(pulls).toBeGreaterThan(3);
      }
    }
  });

  it('comes back as a new one in the next domain', () => {
    const desks = makeDesks(3, colocated(3, 8, 2, 4, 8, 1), 2);
    const shape = colocated(3, 8, 2, 4, 8, 1);
    succeed(desks.domain.dies.map((die) => allToAllRounds(placeOf(desks, die), shape, 5, 2)));
    desks.space.control.raiseEpochOfDie(1);
    destroyDomain(desks.space.control, desks.domain);
    const domain = createDomain(desks.space.control, 0, desks.domain.dies);
    desks.endpoints[1] = new Endpoint(1, desks.surroundings);
    succeed(domain.dies.map((die) => allToAllRounds(placeOf(desks, die, domain), shape, 6, 3)));
  });
});

describe('areas', () => {
  it('that are too small: the bytes needed and granted are named before anything is written, and a smaller batch goes', () => {
    const shape = colocated(4, 8, 2, 16, 8, 1);
    const desks = makeDesks(4, shape, 2, { dispatch_bytes: 576 });
    const exchange = makeAllToAll(placeOf(desks, 0), shape);
    const { dispatch } = (desks.endpoints[0] as Endpoint).areas;
    const desk = desks.desks[0] as Desk;
    layBatch(desks.space, desk, {
      ...makeBatch(shape, 1, 0, 0),
      rows: new Float32Array(16 * 8).fill(1),
      experts: new Uint32Array(32),
      weights: new Float32Array(32),
    });
    // 16 tokens by expert 0 twice: directory 64, note 8, pairs 32 × 8, rows 16 × 32, and to the next 16.
    const batch = { rows: desk.rows, experts: desk.experts, weights: desk.weights, format: 'f32', timeout_ms: 100 } as const;
    expect(() => exchange.dispatch({ ...batch, tokens: 16 })).toThrow(
      "dispatch of round 1 at rank 0 of 16 tokens as f32 needs 848 bytes of die 0's dispatch area, 576 are granted",
    );
    expect(desks.space.bytesAt(dispatch, 512).every((byte) => byte === 0)).toBe(true);
    expect(desks.endpoints[0]?.counters.writes).toBe(0);
    exchange.dispatch({ ...batch, tokens: 16, format: 'int8' });
    expect(desks.endpoints[0]?.counters.writes).toBe(4);
  });

  it('for answers that are too small are named the same way', () => {
    const shape = colocated(2, 8, 2, 8, 2, 1);
    const desks = makeDesks(2, shape, 2, { reply_bytes: 64 });
    const exchanges = [0, 1].map((die) => makeAllToAll(placeOf(desks, die), shape));
    const operations = exchanges.map((exchange, die) => {
      const desk = desks.desks[die] as Desk;
      layBatch(desks.space, desk, { ...makeBatch(shape, 1, 0, 0), tokens: 8, experts: Uint32Array.from({ length: 16 }, (_, slot) => slot % 2) });
      return exchange.dispatch({ tokens: 8, rows: desk.rows, experts: desk.experts, weights: desk.weights, format: 'f32', timeout_ms: 100 });
    });
    succeed(operations);
    const busy = exchanges.findIndex(({ received }) => received.pairs > 0);
    const { pairs } = (exchanges[busy] as AllToAll).received;
    const { answers: rows, into } = desks.desks[busy] as Desk;
    expect(() => exchanges[busy]?.combine({ rows, format: 'f32', into, shared: 0, timeout_ms: 100 })).toThrow(
      `combine of round 1 at rank ${busy} of ${pairs} rows as f32 needs ${pairs * 32} bytes of die ${busy}'s reply area, 64 are granted`,
    );
  });

  it.each([
    {
      lie: 'beyond the end',
      offset: 1 << 20,
      rows: 1,
      pairs: 1,
      says: /rank 2 \(die 2\) says that \d+ bytes lie at offset 1048576 of its dispatch area, which has \d+/,
    },
    { lie: 'across the end', offset: 64, rows: 0xffff_ffff, pairs: 0, says: /rank 2 \(die 2\) says that 137438953456 bytes lie at offset 64/ },
    { lie: 'before the start', offset: -64, rows: 1, pairs: 1, says: /rank 2 \(die 2\) says that \d+ bytes lie at offset 4294967232/ },
    { lie: 'between two words', offset: 66, rows: 1, pairs: 1, says: /rank 2 \(die 2\) says that \d+ bytes lie at offset 66/ },
    { lie: 'of no format', offset: 64, rows: 1, pairs: 1, format: 3, says: /rank 2 \(die 2\) sent rows of format 3: f32, bf16, int8 are known/ },
    {
      lie: 'with a table of nonsense',
      offset: 64,
      rows: 1,
      pairs: 1,
      nonsense: 77,
      says: /rank 2 \(die 2\) asks for row 77 of 1 by expert 77, which is not of rank 0/,
    },
  ])('of a peer that says its tokens lie $lie: a memory fault that names it', ({ offset, rows, pairs, format = 0, nonsense = 0, says }) => {
    const desks = makeDesks(4, SHAPE, 2);
    const liar = desks.endpoints[2] as Endpoint;
    const operation = startDispatch(desks, 0, 0);
    for (const die of [1, 3]) startDispatch(desks, die, 0);
    desks.space.bytesAt(liar.areas.dispatch, 1_024).fill(0);
    if (nonsense > 0) new Int32Array(desks.space.memory(liar.areas.dispatch).buffer, (liar.areas.dispatch % 2 ** 32) + 64, 4).fill(nonsense);
    liar.write(0, CHANNEL.dispatch, offset, rows, pairs, domainTag(desks.domain), stampOf(1, format));
    const { code, message } = failureOf(operation.poll());
    expect(code).toBe('memory_fault');
    expect(message).toMatch(says);
  });
});

it('an expert that there is not is refused before anything is written', () => {
  const desks = makeDesks(4, SHAPE, 2);
  layBatch(desks.space, desks.desks[0] as Desk, { ...makeBatch(SHAPE, 1, 0, 0), experts: Uint32Array.from([1, 8]) });
  expect(() => startDispatch(desks, 0, 1)).toThrow('token 0 is for expert 8, there are 8');
  expect(desks.endpoints[0]?.counters.writes).toBe(0);
});

it('steps take turns', () => {
  const desks = makeDesks(4, SHAPE, 2);
  const exchange = makeAllToAll(placeOf(desks, 0), SHAPE);
  const { answers: rows, into } = desks.desks[0] as Desk;
  expect(() => exchange.combine({ rows, format: 'f32', into, shared: 0, timeout_ms: 100 })).toThrow('combine at rank 0 out of turn: dispatch is next');
  startDispatch(desks, 0, 0, exchange);
  expect(() => startDispatch(desks, 0, 0, exchange)).toThrow('dispatch at rank 0 out of turn: combine is next');
});
