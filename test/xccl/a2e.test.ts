/** A2E and E2A between unequal numbers of attention and expert ranks, in both forms, against the plain sum in expert order. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { A2E_FORMS, type A2EForm } from '../../src/xccl/a2e.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { makeAttentionEnd, makeExpertEnd, programsOf, type Sums, split, TIMEOUT_MS } from './a2e-rig.ts';
import { placeOf } from './all-to-all-rig.ts';
import { EXCHANGE } from './arbitraries.ts';
import { computeReceived, expectedSum, floatsAt, inTurn, layBatch, makeBatch, makeDesks, type Shape, sameBits } from './exchange-rig.ts';
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

it.each(A2E_FORMS)('%s: whom one expert rank refuses hears so, and has no sum; the others do not, and the next round is as ever', (form) => {
  const [attention, experts, rounds, refuser] = [2, 3, 2, 2];
  const shape = split(attention, experts, 4, 2, 9, 6, 7);
  const desks = makeDesks(attention + experts, shape, 2);
  const { space } = desks;
  const heard: string[] = [];
  const notes = new Set<number>();
  const sources = [0, 1].map((rank) => {
    const end = makeAttentionEnd(placeOf(desks, rank), shape, form);
    const { desk } = placeOf(desks, rank);
    const steps = Array.from({ length: rounds }, (_, round) => {
      const batch = makeBatch(shape, 7, rank, round);
      return [
        () => {
          layBatch(space, desk, batch);
          return end.a2e({ tokens: batch.tokens, rows: desk.rows, experts: desk.experts, weights: desk.weights, note: 10 * rank + round });
        },
        () => end.e2a({ into: desk.into, shared: batch.shared === null ? 0 : desk.shared, timeout_ms: TIMEOUT_MS }),
        (): Operation => {
          heard.push(`rank ${rank} round ${round} ${end.isRefused}`);
          const right = end.isRefused ? batch.residual : expectedSum(shape, batch, 'f32', () => 'f32');
          sameBits(floatsAt(space, desk.into, batch.residual.length).slice(), right, `rank ${rank} in round ${round}`);
          return { poll: () => ({ state: 'done' }) };
        },
      ];
    });
    return inTurn(steps.flat());
  });
  const holders = [0, 1, 2].map((index) => {
    const end = makeExpertEnd(placeOf(desks, attention + index), shape, form);
    const steps = Array.from({ length: rounds }, (_, round) => [
      () => end.a2e({ timeout_ms: TIMEOUT_MS }),
      () => {
        for (let source = 0; source < attention; source++) if (end.received.pairsFrom(source) > 0) notes.add(end.received.notes[source] as number);
        computeReceived(space, end.received, end.reply_rows);
        const refused = index === refuser && round === 0 ? Uint8Array.of(1, 0) : null;
        return end.e2a({ rows: end.reply_rows, refused, timeout_ms: TIMEOUT_MS });
      },
    ]);
    return inTurn(steps.flat());
  });
  succeed([...sources, ...holders], { pick: randomPick(1) });
  expect(heard.toSorted()).toEqual(['rank 0 round 0 true', 'rank 0 round 1 false', 'rank 1 round 0 false', 'rank 1 round 1 false']);
  expect([...notes].toSorted((a, b) => a - b)).toEqual([0, 1, 10, 11]);
});
