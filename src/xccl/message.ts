/**
 * What the fields of point to point say, and in which order they may.
 *
 *   data             a eventID | b chunkID | c tailPtr | d domain | e bytes            sender → receiver
 *   acknowledgement  a answers | b head | c status | d detail | e leases               receiver → sender
 *
 * Chunks are counted over the life of a pair: chunk n lies in slot n mod slots; tailPtr says how many have been written, head how many have been taken.
 * A message begins at some count, its base = tailPtr − chunkID − 1, which no other message of the pair has: so a field that belongs to another message than
 * the last one is known as such. All fields of one message say the same but for chunkID and tailPtr, and the next message waits for the last to end: so a
 * field may be overwritten before it was read, and nothing is lost.
 *
 *   answers   the event of the data field that this one answers: with it the sender knows which message is meant
 *   leases    eight lanes of four bits, each the number, mod 16, of the lease that was released there last
 *   domain    id and generation: what a rank of a destroyed domain left is not heard in the next
 *
 * Longer messages, and leases, are one chunk: a descriptor of where the bytes lie in the sender's region.
 *
 *   descriptor  | segment | offset | epoch of the region | lease: its number in its lane × 8 + lane |
 *
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { type Domain, OF_OPERATIONS } from './domain.ts';

/** Of a field's own words. */
export const DATA = { event_id: 0, chunk: 1, tail: 2, domain: 3, bytes: 4 } as const;
export const ACKNOWLEDGEMENT = { answers: 0, head: 1, status: 2, detail: 3, leases: 4 } as const;

/** In the place of a chunkID. `withdrawn`: the sender has given the message up, its memory may change from now on. */
export const CHUNK = { descriptor: -1, lease: -2, withdrawn: -3 } as const;
export const DESCRIPTOR_WORD = { segment: 0, offset: 1, region_epoch: 2, lease: 3 } as const;

/** How the receiver answers. `taking`: a lease, before the last look that it is still there; the sender writes nothing meanwhile but a withdrawal. `detail` of a mismatch: the eventID that it expects; of `too_long`: the bytes that it has room for. */
export const STATUS = { taken: 0, mismatch: 1, too_long: 2, refused: 3, given_up: 4, taking: 5 } as const;
export type Status = (typeof STATUS)[keyof typeof STATUS];

export const LEASE_LANES = 8;
const GENERATION_BITS = 4;
const GENERATIONS = 1 << GENERATION_BITS;

/** Of the lane's lease of that number. */
export const generationOf = (count: number): number => count % GENERATIONS;
export const generationIn = (leases: number, lane: number): number => (leases >>> (lane * GENERATION_BITS)) & (GENERATIONS - 1);

/** The word of lanes after the release. */
export function withRelease(leases: number, lease: number): number {
  const shift = (lease % LEASE_LANES) * GENERATION_BITS;
  return (leases & ~((GENERATIONS - 1) << shift)) | (generationOf(Math.floor(lease / LEASE_LANES)) << shift);
}

/** Index of the first chunk of the message that a field belongs to. */
export const baseOf = (tail: number, chunk: number): number => (tail - (chunk < 0 ? 1 : chunk + 1)) | 0;

const GENERATION_OF_DOMAIN = 0xff_ffff;
/** 2³² divided by the golden ratio, made odd: it spreads bits that differ (D. Knuth, The Art of Computer Programming 3, 6.4). */
const LIVES_PRIME = 0x9e3779b1;

export const domainTag = ({ id, generation }: Domain): number => (id << 24) | (generation & GENERATION_OF_DOMAIN);
/** Of a domain that lives as long as all of its dies do: by the epochs of all, by rank, as whoever asks knows them. */
export function livesTag({ id, generation, dies }: Domain, epochs: Int32Array): number {
  let tag = Math.imul(id + 1, LIVES_PRIME) ^ generation;
  for (let rank = 0; rank < dies.length; rank++)
    tag = Math.imul(Math.imul(tag ^ (dies[rank] as number), LIVES_PRIME) ^ (epochs[rank] as number), LIVES_PRIME) ^ (tag >>> 15);
  return tag;
}
export const isTagAlive = (control: ControlPage, tag: number): boolean =>
  tag >>> 24 === OF_OPERATIONS || (control.generationOf(tag >>> 24) & GENERATION_OF_DOMAIN) === (tag & GENERATION_OF_DOMAIN);

/** Of one die, in both directions. Plain numbers in a fixed order, for stats. */
export type PointToPointCounters = {
  /** Messages that were acknowledged, and their bytes. */
  sends: number;
  sent_bytes: number;
  /** Messages that were delivered here, and their bytes by the way they came. */
  receives: number;
  slots_bytes: number;
  dma_bytes: number;
  /** Used in place. */
  zero_copy_bytes: number;
  /** Leases that could not be used in place, since the lender's region lies in another segment. */
  lease_copies: number;
  /** Leases that are out now: the lender's memory is not its own again before they are released. */
  leases_lent: number;
  leases_borrowed: number;
  /** Messages whose eventID was not the expected one. */
  mismatches: number;
  /** Descriptors that named memory which is not the sender's. */
  refusals: number;
  /** Operations of this die whose deadline passed. */
  expired: number;
  /** Operations of this die that failed, for whatever reason. */
  failures: number;
  /** Messages of a domain that is over. Fields of an epoch that is over are counted by the endpoint. */
  stale: number;
};

export const noCounters = (): PointToPointCounters => ({
  sends: 0,
  sent_bytes: 0,
  receives: 0,
  slots_bytes: 0,
  dma_bytes: 0,
  zero_copy_bytes: 0,
  lease_copies: 0,
  leases_lent: 0,
  leases_borrowed: 0,
  mismatches: 0,
  refusals: 0,
  expired: 0,
  failures: 0,
  stale: 0,
});
