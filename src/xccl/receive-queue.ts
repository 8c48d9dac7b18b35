/**
 * The receiving end of a pair of dies: its receives in order, the slots of the peer in this die's managed area, its data field in this die's metadata, and
 * what is answered.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { CHANNEL } from './areas.ts';
import { type Endpoint, OWN_WORDS } from './endpoint.ts';
import { baseOf, CHUNK, DATA, isTagAlive, type PointToPointCounters, STATUS, type Status, withRelease } from './message.ts';
import { removeFrom } from './operation.ts';
import type { Receive } from './receive.ts';

export class ReceiveQueue {
  readonly peer: number;
  /** The peer's epoch that this pair is of. */
  readonly epoch: number;
  /** First in, first out for each domain. */
  readonly receives: Receive[] = [];
  /** The field that the last look has shown. */
  event = 0;
  eventId = 0;
  chunk = 0;
  bytes = 0;
  base = 0;
  tag = 0;
  readonly #endpoint: Endpoint;
  readonly #counters: PointToPointCounters;
  readonly #words: Int32Array;
  readonly #field = new Int32Array(OWN_WORDS);
  readonly #slots: number;
  readonly #slotWords: number;
  readonly #slotBytes: number;
  readonly #slotMask: number;
  /** The base of the last message that is over, whatever its sender still writes of it. */
  #over: number | null = null;
  #answers = 0;
  #head = 0;
  #status: Status = STATUS.taken;
  #detail = 0;
  #leases = 0;

  constructor(endpoint: Endpoint, peer: number, counters: PointToPointCounters) {
    const { managed, slots, slot_bytes } = endpoint.areas;
    this.#endpoint = endpoint;
    this.#counters = counters;
    this.peer = peer;
    this.epoch = endpoint.epochOf(peer);
    this.#slots = managed + peer * slots * slot_bytes;
    this.#slotBytes = slot_bytes;
    this.#slotMask = slots - 1;
    this.#slotWords = offsetOf(this.#slots) / 4;
    this.#words = endpoint.space.wordsOf(managed);
  }

  get slotBytes(): number {
    return this.#slotBytes;
  }

  /** Where the chunk lies, of all chunks that the peer ever wrote. */
  slotAt(chunk: number): number {
    return this.#slots + (chunk & this.#slotMask) * this.#slotBytes;
  }

  descriptorWord(word: number): number {
    return this.#words[this.#slotWords + ((this.base & this.#slotMask) * this.#slotBytes) / 4 + word] as number;
  }

  /** Reads the data field; true if it shows a message that is not over, of a domain that lives. */
  look(): boolean {
    const endpoint = this.#endpoint;
    const words = this.#field;
    const event = endpoint.readNew(this.peer, CHANNEL.data, words);
    if (event === 0) return false;
    this.event = event;
    this.eventId = words[DATA.event_id] as number;
    this.chunk = words[DATA.chunk] as number;
    this.base = baseOf(words[DATA.tail] as number, this.chunk);
    this.tag = words[DATA.domain] as number;
    this.bytes = (words[DATA.bytes] as number) >>> 0;
    if (this.base === this.#over) this.consume();
    else if (!isTagAlive(endpoint.space.control, this.tag)) {
      this.#counters.stale++;
      this.consume();
    } else return true;
    return false;
  }

  /** The field has not changed since the look, and the peer has not been given up: what was copied in between is whole. */
  isStill(): boolean {
    return this.#endpoint.isStill(this.peer, CHANNEL.data, this.event);
  }

  /** What was looked at last, by whichever receive, is of the message that began there and has not been withdrawn. */
  shows(base: number): boolean {
    return this.base === base && this.chunk !== CHUNK.withdrawn;
  }

  /** Not to be looked at again. */
  consume(): void {
    this.#endpoint.consume(this.peer, CHANNEL.data, this.event);
  }

  /** Whatever else comes of the message is not looked at. */
  close(base: number): void {
    this.#over = base;
  }

  /** Answers the field that was looked at last. `head`: chunks of the pair that are taken. */
  acknowledge(head: number, status: Status, detail: number): void {
    this.#answers = this.event;
    this.#head = head;
    this.#status = status;
    this.#detail = detail;
    this.#write();
  }

  /** Says that the lease is back, with the next acknowledgement or, `isAlone`, at once. */
  release(lease: number, isAlone: boolean): void {
    this.#leases = withRelease(this.#leases, lease);
    if (isAlone) this.#write();
  }

  /** The first of its domain: messages are its. */
  firstOf(tag: number): Receive | null {
    for (let index = 0; index < this.receives.length; index++) if (this.receives[index]?.tag === tag) return this.receives[index] as Receive;
    return null;
  }

  leave(receive: Receive): void {
    removeFrom(this.receives, receive);
  }

  #write(): void {
    this.#endpoint.write(this.peer, CHANNEL.acknowledgement, this.#answers, this.#head, this.#status, this.#detail, this.#leases);
  }
}
