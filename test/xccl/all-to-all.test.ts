/** Dispatch and combine between colocated ranks, against the plain sum in expert order. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { allToAllRounds, colocated, placeOf } from './all-to-all-rig.ts';
import { EXCHANGE } from './arbitraries.ts';
import { makeDesks } from './exchange-rig.ts';
import { randomPick, succeed } from './rig.ts';

it('every rank gets the bits of the plain sum, whatever the shape, the formats, the segments and the order of polls', () => {
  fc.assert(
    fc.property(
      fc.record({
        ranks: fc.integer({ min: 2, max: 10 }),
        ...EXCHANGE,
      }),
      ({ ranks, hidden, top_k, tokens_max, experts, segments, rounds, seed }) => {
        const shape = colocated(ranks, hidden, top_k, tokens_max, experts, seed);
        const desks = makeDesks(ranks, shape, segments);
        const programs = desks.domain.dies.map((die) => allToAllRounds(placeOf(desks, die), shape, seed, rounds));
        succeed(programs, { pick: randomPick(seed) });
        for (const { counters } of desks.endpoints) expect(counters).toMatchObject({ writes: 2 * ranks * rounds, stale: 0 });
      },
    ),
    { numRuns: runs(60) },
  );
});

it.each(SEGMENTS)('64 ranks over %i segments: the same', (segments) => {
  const shape = colocated(64, 16, 4, 3, 96, segments);
  const desks = makeDesks(64, shape, segments);
  const programs = desks.domain.dies.map((die) => allToAllRounds(placeOf(desks, die), shape, 7, 2));
  succeed(programs, { pick: randomPick(segments) });
});
