/** Which attention NPUs give way to a lost expert NPU. */
import { expect, it } from 'vitest';
import { type RoleSeats, switchFor } from '../../actors/policies/role-places.ts';

const place = (worker: number, ...groups: number[]) => ({ worker, npus: groups.map((group) => 10 * worker + group), groups });
const seats = (...places: ReturnType<typeof place>[]): RoleSeats => ({
  groups: [...new Set(places.flatMap(({ groups }) => groups))]
    .toSorted((a, b) => a - b)
    .map((group) => ({ group, npus: places.filter(({ groups }) => groups.includes(group)).map(({ worker }) => 10 * worker + group) })),
  places,
  homes: [{ worker: 9, npus: [99] }],
});
const chosen = (of: RoleSeats, serving: readonly number[], ...lost: number[]): number | null =>
  switchFor(of, { needed: [99], lost: [99, ...lost], serving, refused: [] })?.place.worker ?? null;

it.each<[string, RoleSeats, readonly number[], readonly number[], number | null]>([
  ['the last one of those that cost the same', seats(place(0, 0), place(1, 1), place(2, 2)), [0, 1, 2], [], 2],
  ['one with one group, before the last one with two', seats(place(0, 0, 1), place(1, 2), place(2, 3, 4)), [0, 1, 2, 3, 4], [], 1],
  ['one whose groups stand by, however many', seats(place(0, 0), place(1, 1), place(2, 2, 3)), [0, 1], [], 2],
  ['of those the one with fewer', seats(place(0, 0), place(1, 1), place(2, 2, 3)), [0], [], 1],
  ['one whose group has lost another NPU', seats(place(0, 0), place(1, 0), place(2, 1), place(3, 2)), [0, 1, 2], [10], 0],
  ['none, where no group would be left', seats(place(0, 0, 1)), [0, 1], [], null],
  ['none that leaves groups alone that stand by', seats(place(0, 0), place(1, 1)), [0], [], 1],
  ['none with fewer NPUs', { ...seats(place(0, 0), place(1, 1)), homes: [{ worker: 9, npus: [99, 98] }] }, [0, 1], [98], null],
])('is %s', (_, of, serving, lost, worker) => {
  expect(chosen(of, serving, ...lost)).toBe(worker);
});
