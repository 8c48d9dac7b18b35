/** Rows that a second layer of drafts has of the first: those of the positions before its own, the last of each step kept for the next. */
import { expect, it } from 'vitest';
import type { AddressSpace } from '../../../src/fabric/address-space.ts';
import { SlotRows } from '../../../src/flowserve/drafters/slot-rows.ts';
import type { StepLayout } from '../../../src/flowserve/layouts/step-layout.ts';

const ROW_BYTES = 4;
const [X, TOKENS, POSITIONS, KEPT] = [0, 256, 512, 768];

it('are moved up by one, begin with the one that was kept where that is of the position before, and without a first row else', () => {
  const words = new Int32Array(256);
  const space = {
    wordsOf: () => words,
    copy: (to: number, from: number, bytes: number) => words.copyWithin(to >>> 2, from >>> 2, (from + bytes) >>> 2),
  } as unknown as AddressSpace;
  const scratch = { x: X, tokenIds: TOKENS, positions: POSITIONS };
  const rows = new SlotRows({ base: 0, row_bytes: ROW_BYTES, scratch } as unknown as StepLayout, KEPT, space);
  /** Position p has row 100 + p and token 200 + p. What comes out, by row: which row it was given, for which token and position. */
  const pass = (slot: number, from: number, count: number): number[][] => {
    const row = 1;
    for (let at = 0; at < count; at++) {
      words[(X >>> 2) + row + at] = 100 + from + at;
      words[(TOKENS >>> 2) + row + at] = 200 + from + at;
      words[(POSITIONS >>> 2) + row + at] = from + at;
    }
    const left = rows.pass({ slot, row, rows: count }, 0);
    return Array.from({ length: left }, (_, at) => [X, TOKENS, POSITIONS].map((table) => words[(table >>> 2) + at] as number));
  };
  const expected = (first: number, end: number): number[][] => Array.from({ length: end - first }, (_, at) => [99 + first + at, 200 + first + at, first + at]);
  expect(pass(0, 0, 3)).toEqual(expected(1, 3));
  expect(pass(1, 5, 1)).toEqual([]);
  expect(pass(0, 3, 2)).toEqual(expected(3, 5));
  expect(pass(1, 6, 1)).toEqual(expected(6, 7));
  // A draft was wrong: the next step begins one position earlier than it would have.
  expect(pass(0, 4, 2)).toEqual(expected(5, 6));
  rows.forget(0);
  expect(pass(0, 6, 2)).toEqual(expected(7, 8));
});
