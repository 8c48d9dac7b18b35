/**
 * Role switches that have begun, but for the one at hand, and may have to be gone on with.
 *
 *   late    with the host, which goes on with it: its NPUs are there when they can be
 *     ▲ ▼
 *   told    an entry of the map's log tells that it is done; where that entry is taken at the last moment, nobody has heard of it
 *
 * @module
 */
import type { Chosen } from './role-places.ts';

/** `entry`: the last of the map's log that was this one's; −1: none is. */
export type Begun = { readonly chosen: Chosen; readonly began_ms: number; readonly entry: number };
/** One at most is told of. */
export type BegunSwitches = readonly (Begun & { readonly stage: 'late' | 'told' })[];

export const lateOf = (begun: BegunSwitches): BegunSwitches => begun.filter(({ stage }) => stage === 'late');

export const leftToHost = (begun: BegunSwitches, one: Begun): BegunSwitches => [...begun, { ...one, stage: 'late' }];

/** Of whom was told before is no more to be said. */
export const toldOf = (begun: BegunSwitches, one: Begun): BegunSwitches => [...lateOf(begun), { ...one, stage: 'told' }];

export const isTold = (begun: BegunSwitches, entry: number): boolean => begun.some((one) => one.stage === 'told' && one.entry === entry);

/** The entry that told of it was taken. */
export const untold = (begun: BegunSwitches): BegunSwitches => [
  ...lateOf(begun),
  ...begun.filter(({ stage }) => stage === 'told').map((one) => ({ ...one, stage: 'late' as const })),
];

/** One that was late, all of whose NPUs are there. */
export const arrived = (begun: BegunSwitches, lost: readonly number[]): Begun | undefined =>
  lateOf(begun).find(({ chosen }) => chosen.home.npus.every((npu) => !lost.includes(npu)));

/** Late ones that `isOver` says nothing is to come of any more go. */
export const without = (begun: BegunSwitches, isOver: (chosen: Chosen) => boolean): BegunSwitches =>
  begun.filter(({ stage, chosen }) => stage === 'told' || !isOver(chosen));
