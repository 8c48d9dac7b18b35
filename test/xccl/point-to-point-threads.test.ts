/** Point to point across real threads: dies of one thread or of two look the same. */
import { expect, it } from 'vitest';
import { cases, SEED } from '../property-runs.ts';
import { randomPick } from './rig.ts';
import { onThreads } from './rig-threads.ts';
import type { TrafficArgs, TrafficResult } from './traffic.ts';
import { expectGuards, placeTransfers, type Transfer, type TransferShape, type Way } from './transfers.ts';

const SLOT = 1_024;
const SIZES = [0, 1, SLOT - 1, SLOT, SLOT + 1, 9 * SLOT + 5, 70_000];
const WAYS: readonly Way[] = ['slots', 'dma', 'lease'];
const PER_ROUND = 120;
const ROUNDS = 8;

const SHAPES: [threads: number, segments: number][] = [
  [2, 1],
  [2, 2],
  [3, 2],
  [4, 5],
];

it.each(cases(SHAPES))('messages between dies of %i threads over %i segments come whole, in order, and every lease comes back', async (threads, segments) => {
  const dies = 6;
  const pick = randomPick(SEED | 1);
  const of = <Value>(values: readonly Value[]): Value => values[pick(values.length)] as Value;
  const shapes = Array.from(
    { length: ROUNDS * PER_ROUND },
    (): TransferShape => ({ from: pick(dies), to: pick(dies), bytes: of(SIZES), way: of(WAYS), borrows: pick(2) === 0 }),
  );
  let check = (): void => {};
  const results = await onThreads<TrafficArgs, TrafficResult>(
    dies,
    { threads, segments, sizes: { slot_bytes: SLOT }, app_bytes: 8 * 2 ** 20 },
    new URL('traffic.ts', import.meta.url),
    ({ space, apps }) => {
      const transfers = placeTransfers(space, apps, shapes);
      check = () => {
        for (const transfer of transfers) expectGuards(space, transfer);
      };
      const rounds = Array.from({ length: ROUNDS }, (_, round): Transfer[] => transfers.slice(round * PER_ROUND, (round + 1) * PER_ROUND));
      return { rounds, timeout_ms: 20_000 };
    },
  );
  const sum = (of: (result: TrafficResult) => number): number => results.reduce((total, result) => total + of(result), 0);
  const outcome = { errors: results.flatMap(({ errors }) => errors), torn: sum(({ torn }) => torn), delivered: sum(({ delivered }) => delivered) };
  expect(outcome, `seed ${SEED}`).toEqual({ errors: [], torn: 0, delivered: shapes.length });
  expect(sum(({ out }) => out)).toBe(0);
  check();
});
