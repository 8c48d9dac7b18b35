/**
 * The areas of a die that XCCL uses (xDeepServe §3.1): metadata, one set of 32-byte fields for each peer, and managed data.
 * The app data area is everything else in the die's region: what a caller sends from or receives into.
 *
 *   metadata   peer 0 | peer 1 | …       a peer's set is 192 bytes: six fields, one a channel; the peer alone writes them, so nobody waits for a lock
 *              of a pod whose domains take turns, behind them two more a lane (lane.ts): dispatch and combine
 *   field      | event | source epoch | target epoch | a | b | c | d | e |       32-bit words; `event` is stored last and shows the others
 *   managed    | slots of peer 0 | slots of peer 1 | … | dispatch area | gather area | reply area |
 *
 * Areas begin at the same offsets in every die's region. The reply area comes last, since dies that answer more have a larger one.
 *
 * A die writes into its own areas, into its fields in its peers' metadata, and into its slots in their managed areas; nothing else. So what a die that
 * was given up can still change is known: exactly that. Its successor starts on another die, or after the first is proven gone.
 * @module
 */
import type { Arena } from '../fabric/arena.ts';
import { assert } from '../protocol/errors.ts';

/** Fields of one peer, by what they carry; those of lanes are behind them. */
export const CHANNEL = { data: 0, acknowledgement: 1, dispatch: 2, combine: 3, gatherEven: 4, gatherOdd: 5 } as const;
export type Channel = number;
export const FIELD_WORD = { event: 0, source_epoch: 1, target_epoch: 2, a: 3, b: 4, c: 5, d: 6, e: 7 } as const;
export const FIELD_BYTES = 32;
export const CHANNELS = Object.keys(CHANNEL).length;
/** Dispatch and combine. */
export const CHANNELS_OF_LANE = 2;
/** Of a peer's set, where there are no lanes. */
export const PEER_BYTES = CHANNELS * FIELD_BYTES;
assert(Object.keys(FIELD_WORD).length * 4 === FIELD_BYTES, 'a field is 32 bytes');

/** What one pod's dies agree on, but for `reply_bytes`. Bytes are multiples of 64. */
export type AreaSizes = {
  readonly dies: number;
  /** Slots for each sending peer, a power of two (2: ping-pong), and bytes of each. */
  readonly slots: number;
  readonly slot_bytes: number;
  /** Where a die leaves what its peers pull: tokens for experts, and the experts' answers. */
  readonly dispatch_bytes: number;
  readonly reply_bytes: number;
  /** Where it computes its part of what the ranks of its DP group gather from one another. */
  readonly gather_bytes: number;
  /** Exchanges that go on beside one another between the same dies, missing: none (lane.ts). */
  readonly lanes?: number | undefined;
};

/** Global addresses of one die's areas. */
export type Areas = AreaSizes & {
  /** Of each peer's set of fields. */
  readonly peer_bytes: number;
  readonly metadata: number;
  readonly managed: number;
  readonly dispatch: number;
  readonly reply: number;
  readonly gather: number;
};

export function layoutAreas(sizes: AreaSizes, arena: Arena): Areas {
  const { dies, slots, slot_bytes, dispatch_bytes, reply_bytes, gather_bytes, lanes = 0 } = sizes;
  const peer_bytes = PEER_BYTES + lanes * CHANNELS_OF_LANE * FIELD_BYTES;
  assert((slots & (slots - 1)) === 0 && slots >= 2, `${slots} slots: a power of two from 2 on`);
  for (const bytes of [slot_bytes, dispatch_bytes, reply_bytes, gather_bytes]) assert(bytes % 64 === 0, `an area of ${bytes} bytes: areas are multiples of 64`);
  return {
    ...sizes,
    peer_bytes,
    metadata: arena.allocate(dies * peer_bytes, 128),
    managed: arena.allocate(dies * slots * slot_bytes, 128),
    dispatch: arena.allocate(dispatch_bytes, 128),
    gather: arena.allocate(gather_bytes, 128),
    reply: arena.allocate(reply_bytes, 128),
  };
}
