/**
 * Those who want an expert map for an entry of its log (map-log.ts), and what they are told; who hears of lost experts.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { type ForeignMapChange, MAP_CHANGES, type MapCause } from '../../src/protocol/map-log.ts';
import type { BalancerSeat } from './reconfiguration.ts';

/** Where a map is. `tells`: who hears that experts are nowhere. */
export type MapSeat = BalancerSeat & { readonly tells: Address };
/** Somebody who waits for the map. */
export type Wanted = { readonly writer: Address; readonly query: number; readonly change: ForeignMapChange; readonly is_return: boolean; readonly why: string };
/** Why a change went wrong. */
export type Failure = { readonly cause: MapCause; readonly reason: string };

export const isHeavier = (one: Wanted, other: Wanted): boolean => MAP_CHANGES.indexOf(one.change) > MAP_CHANGES.indexOf(other.change);

export const names = (npus: Iterable<number>): string => [...npus].map((npu) => `npu/${npu}`).join(', ');

export const busy = (change: string): ErrorRecord => ({
  code: 'overloaded',
  message: `the expert map is taken: a ${change} is under way, and there is one entry at a time; ask again when it is done`,
  param: null,
});

/** Of experts that were to lie elsewhere. `worker_lost`: and never can. */
export const errorOf = ({ cause, reason }: Failure): ErrorRecord => ({
  code: cause === 'deadline' ? 'deadline_exceeded' : cause === 'npu_gone' || cause === 'no_room' ? 'worker_lost' : 'worker_failed',
  message: reason,
  param: null,
});

export const takenBy = (cause: MapCause, reason: string, code?: ErrorRecord['code']): ErrorRecord => ({
  code: code ?? (cause === 'deadline' ? 'deadline_exceeded' : 'overloaded'),
  message: `the expert map: ${reason}`,
  param: null,
});
