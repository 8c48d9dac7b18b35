/**
 * The sending end of a pair of dies: its sends in order, the slots of this die in the peer's managed area, the data field in its metadata, and what the peer
 * acknowledged.
 * @module
 */
import { globalAddress, offsetOf, segmentOf } from '../fabric/address.ts';
import { CHANNEL } from './areas.ts';
import { type Endpoint, OWN_WORDS } from './endpoint.ts';
import { ACKNOWLEDGEMENT, DESCRIPTOR_WORD, generationIn, generationOf, LEASE_LANES, STATUS } from './message.ts';
import { type Operation, removeFrom } from './operation.ts';

export class SendQueue {
  readonly peer: number;
  /** The peer's epoch that this pair is of. */
  readonly epoch: number;
  /** First in, first out: the first alone touches the pair. */
  readonly sends: Operation[] = [];
  /** Chunks written to the peer, over all messages. */
  tail = 0;
  /** What the peer said last: the event it answers, chunks taken, and how it went. */
  answers = 0;
  head = 0;
  status: number = STATUS.taken;
  detail = 0;
  readonly #endpoint: Endpoint;
  readonly #field = new Int32Array(OWN_WORDS);
  readonly #slots: number;
  readonly #slotBytes: number;
  readonly #slotMask: number;
  /** The peer's word of lanes. */
  #released = 0;
  /** By lane: how many leases it has had; the last one's number mod 16 is its generation. */
  readonly #leases = new Uint32Array(LEASE_LANES);
  /** By lane: 1 while the peer may hold the last one. */
  readonly #out = new Uint8Array(LEASE_LANES);

  constructor(endpoint: Endpoint, peer: number) {
    const { managed, slots, slot_bytes } = endpoint.surroundings.areasOf(peer);
    this.#endpoint = endpoint;
    this.peer = peer;
    this.epoch = endpoint.epochOf(peer);
    this.#slots = managed + endpoint.die * slots * slot_bytes;
    this.#slotBytes = slot_bytes;
    this.#slotMask = slots - 1;
  }

  get slots(): number {
    return this.#slotMask + 1;
  }

  get slotBytes(): number {
    return this.#slotBytes;
  }

  /** Where the chunk goes, of all chunks ever written to the peer. */
  slotAt(chunk: number): number {
    return this.#slots + (chunk & this.#slotMask) * this.#slotBytes;
  }

  /** Says in the next chunk's slot where the bytes lie. */
  describe(address: number, regionEpoch: number, lease: number): void {
    const slot = this.slotAt(this.tail);
    const words = this.#endpoint.space.wordsOf(slot);
    const at = offsetOf(slot) / 4;
    words[at + DESCRIPTOR_WORD.segment] = segmentOf(address);
    words[at + DESCRIPTOR_WORD.offset] = offsetOf(address);
    words[at + DESCRIPTOR_WORD.region_epoch] = regionEpoch;
    words[at + DESCRIPTOR_WORD.lease] = lease;
  }

  /** Advances the tail pointer and tells the peer; returns the field's event. */
  publish(tail: number, chunk: number, eventId: number, tag: number, bytes: number): number {
    this.tail = tail;
    return this.#endpoint.write(this.peer, CHANNEL.data, eventId, chunk, tail, tag, bytes);
  }

  /** Looks at the peer's acknowledgement. */
  look(): void {
    const endpoint = this.#endpoint;
    const words = this.#field;
    const event = endpoint.readNew(this.peer, CHANNEL.acknowledgement, words);
    if (event === 0) return;
    endpoint.consume(this.peer, CHANNEL.acknowledgement, event);
    this.answers = words[ACKNOWLEDGEMENT.answers] as number;
    this.head = words[ACKNOWLEDGEMENT.head] as number;
    this.status = words[ACKNOWLEDGEMENT.status] as number;
    this.detail = words[ACKNOWLEDGEMENT.detail] as number;
    const leases = words[ACKNOWLEDGEMENT.leases] as number;
    if (leases === this.#released) return;
    this.#released = leases;
    for (let lane = 0; lane < LEASE_LANES; lane++) if (generationIn(leases, lane) === generationOf(this.#leases[lane] as number)) this.#out[lane] = 0;
  }

  /** The number of a new lease, count × lanes + lane, or −1 while the peer holds as many as it may. */
  takeLease(): number {
    const lane = this.#out.indexOf(0);
    if (lane < 0) return -1;
    const count = (this.#leases[lane] as number) + 1;
    this.#leases[lane] = count;
    this.#out[lane] = 1;
    return count * LEASE_LANES + lane;
  }

  /** As far as the last look knows; the lane may have gone to another lease since. */
  isReleased(lease: number): boolean {
    const lane = lease % LEASE_LANES;
    return this.#out[lane] === 0 || this.#leases[lane] !== Math.floor(lease / LEASE_LANES);
  }

  /** The peer has not taken it, and never will. The lane's next lease is of another generation, so that a late release does not count for it. */
  forgetLease(lease: number): void {
    this.#out[lease % LEASE_LANES] = 0;
  }

  leave(operation: Operation): void {
    removeFrom(this.sends, operation);
  }
}

/** The address that a descriptor's words name. */
export const describedAddress = (segment: number, offset: number): number => globalAddress(segment >>> 0, offset >>> 0);
