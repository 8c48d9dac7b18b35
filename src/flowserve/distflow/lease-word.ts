/**
 * A lease: one word in the holder's memory by which a prefill NPU lends blocks to one puller, changed by compare-and-swap alone.
 *
 *                    open               claim                release
 *          free ──────────────▶ held ──────────▶ pulling ──────────────▶ released ─┐
 *           ▲                    │                │    │                           │
 *           │  expired,          │        expired,│    │ gives up                  │ the holder frees the blocks
 *           ├────────────────────┘       withdrawn│    └──────────────▶ stopped ───┤
 *           │  withdrawn                          ▼                     ▲          │
 *           │                                   fenced ─────────────────┘          │
 *           │                                     │       the puller has seen it   │
 *           └─────────────────────────────────────┴────────────────────────────────┘
 *                                the puller died
 *
 *   bit  31 … 17   16 … 13       12 … 3   2 … 0
 *        serial    incarnation   die      state      die, incarnation: whose claim it is, so that its death is told from its successor's life
 *
 * The holder opens, fences and collects; the puller claims, releases and stops. Only the holder's clock counts: a puller never judges by time. A puller's
 * swap expects the serial that it was told of, so that a claim of an offer that is over finds another word.
 * @module
 */
import { assert } from '../../protocol/errors.ts';

export const LEASE = { free: 0, held: 1, pulling: 2, released: 3, fenced: 4, stopped: 5 } as const;
export type LeaseState = (typeof LEASE)[keyof typeof LEASE];
const NAMES: readonly string[] = Object.keys(LEASE);

const DIES = 1_024;
const INCARNATIONS = 16;
const [STATE_BITS, DIE_BITS, INCARNATION_BITS] = [3, 10, 4];
const PULLER_SHIFT = STATE_BITS;
const SERIAL_SHIFT = STATE_BITS + DIE_BITS + INCARNATION_BITS;
const PULLERS = DIES * INCARNATIONS;
/** Serials that a lease tells apart; the whole serial stands beside it. */
const LEASE_SERIALS = 2 ** (32 - SERIAL_SHIFT);
assert(2 ** DIE_BITS === DIES && 2 ** INCARNATION_BITS === INCARNATIONS, 'a lease has other bits than it needs');

/** Who pulls: a die in one of its lives. */
export const pullerOf = (die: number, epoch: number): number => (die % DIES) | ((epoch % INCARNATIONS) << DIE_BITS);
export const dieOfPuller = (puller: number): number => puller % DIES;
/** That life is over: the die's epoch has risen since. */
export const isOver = (puller: number, epoch_now: number): boolean => puller >>> DIE_BITS !== epoch_now % INCARNATIONS;

/** As an Int32Array holds it. `puller` is 0 in a lease that nobody claimed. */
export const leaseWord = (serial: number, puller: number, state: LeaseState): number =>
  ((serial % LEASE_SERIALS) << SERIAL_SHIFT) | ((puller % PULLERS) << PULLER_SHIFT) | state;
export const stateOf = (word: number): LeaseState => (word & (2 ** STATE_BITS - 1)) as LeaseState;
export const claimantOf = (word: number): number => (word >>> PULLER_SHIFT) % PULLERS;
export const stateName = (word: number): string => NAMES[stateOf(word)] ?? 'rubbish';
export const isSerialOf = (word: number, serial: number): boolean => word >>> SERIAL_SHIFT === serial % LEASE_SERIALS;
