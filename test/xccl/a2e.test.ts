/** A2E and E2A between unequal numbers of attention and expert ranks, in both forms, against the plain sum in expert order. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { A2E_FORMS, type A2EForm } from '../../src/xccl/a2e.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { makeAttentionEnd, makeExpertEnd, programsOf, type Sums, split } from './a2e-rig.ts';
import { placeOf } from './all-to-all-rig.ts';
import { EXCHANGE } from './arbitraries.ts';
import { makeDesks, type Shape } from './exchange-rig.ts';
import { randomPick, succeed } from './rig.ts';

/** Metadata writes of each rank. */
function exchange(shape: Shape, form: A2EForm, segments: number, seed: number, rounds: number, sums: Sums): number[] {
  const desks = makeDesks(shape.sources + shape.destinations, shape, segments);
  succeed(programsOf(desks, { shape, form, seed, rounds }, sums), { pick: randomPick(seed) });
  expect(desks.endpoints.map(({ counters }) => counters.stale)).toEqual(desks.endpoints.map(() => 0));
  return desks.endpoints.map(({ counters }) => counters.writes);
}

it('both forms give the bits of the plain sum, whatever the numbers of ranks, the formats, the segments and the order of polls', () => {
  fc.assert(
    fc.property(
      fc.record({
        attention: fc.integer({ min: 1, max: 6 }),
        more: fc.integer({ min: 0, max: 6 }),
        ...EXCHANGE,
      }),
      ({ attention, more, hidden, top_k, tokens_max, experts, segments, rounds, seed }) => {
        const shape = split(attention, attention + more, hidden, top_k, tokens_max, experts, seed);
        const [naive, trampoline] = [new Map(), new Map()] as [Sums, Sums];
        exchange(shape, 'naive', segments, seed, rounds, naive);
        exchange(shape, 'trampoline', segments, seed, rounds, trampoline);
        expect(naive.size).toBe(attention * rounds);
        expect(trampoline).toEqual(naive);
      },
    ),
    { numRuns: runs(50) },
  );
});

it.each(SEGMENTS)('24 attention and 40 expert ranks over %i segments: the same bits from both forms', (segments) => {
  const shape = split(24, 40, 16, 4, 3, 64, segments);
  const [naive, trampoline] = [new Map(), new Map()] as [Sums, Sums];
  exchange(shape, 'naive', segments, 3, 2, naive);
  exchange(shape, 'trampoline', segments, 3, 2, trampoline);
  expect(trampoline).toEqual(naive);
});

it('an attention rank writes to all expert ranks in the naive form, to one in the trampoline form', () => {
  const [attention, experts, rounds] = [4, 7, 3];
  const shape = split(attention, experts, 8, 2, 4, 14, 1);
  const times = (count: number, writes: number): number[] => Array.from({ length: count }, () => writes * rounds);
  expect(exchange(shape, 'naive', 2, 1, rounds, new Map())).toEqual([...times(attention, experts), ...times(experts, attention)]);
  expect(exchange(shape, 'trampoline', 2, 1, rounds, new Map())).toEqual([
    ...times(attention, 1),
    ...times(attention, attention + experts + 1),
    ...times(experts - attention, attention),
  ]);
});

it('more attention ranks than expert ranks: the naive form takes them, the trampoline form names both numbers', () => {
  const shape = split(5, 2, 8, 2, 4, 6, 1);
  exchange(shape, 'naive', 2, 1, 2, new Map());
  const desks = makeDesks(7, shape, 2);
  const refusal = '5 attention ranks need as many expert ranks as trampolines, there are 2: use more expert ranks, or the naive form';
  expect(() => makeAttentionEnd(placeOf(desks, 0), shape, 'trampoline')).toThrow(refusal);
  expect(() => makeExpertEnd(placeOf(desks, 6), shape, 'trampoline')).toThrow(refusal);
});

it.each(A2E_FORMS)('%s: no tokens anywhere is a round like any other', (form) => {
  const shape = split(2, 3, 4, 1, 0, 3, 1);
  exchange(shape, form, 2, 1, 3, new Map());
});
