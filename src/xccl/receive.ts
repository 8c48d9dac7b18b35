/**
 * Receives one message from a peer (xDeepServe §3.1, steps 5 to 7), whichever path its sender has chosen.
 *
 *   (5) looks at the peer's data field until the expected event's chunks, or its descriptor, are there; (6) copies to the destination;
 *   (7) acknowledges in the peer's metadata.
 *
 * What was copied counts if the field is the same message's after the copy, both dies' epochs have not risen and the domain lives; only then it is
 * acknowledged or delivered. A sender that dies at any step leaves a receive that fails, never one that delivers a part.
 * @module
 */
import { segmentOf } from '../fabric/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Die } from './die.ts';
import { Lease } from './lease.ts';
import { CHUNK, DESCRIPTOR_WORD, STATUS, type Status } from './message.ts';
import { DONE, failed, type Operation, type Poll } from './operation.ts';
import type { ReceiveQueue } from './receive-queue.ts';
import { describedAddress } from './send-queue.ts';
import type { Terms } from './terms.ts';

/** Bytes that one poll copies from a peer at most, so that it never keeps the thread: about 0.1 ms. */
export const PIECE_BYTES = 1 << 20;

export type CopyPiece = (to: number, from: number, bytes: number) => void;

export class Receive implements Operation {
  readonly #die: Die;
  readonly #queue: ReceiveQueue;
  readonly #terms: Terms;
  readonly #address: number;
  /** Room at the address. */
  readonly #room: number;
  /** A lease is used in place where it can be. */
  readonly #borrows: boolean;
  readonly #copy: CopyPiece;
  #end: Poll | null = null;
  #base: number | null = null;
  /** Of the message that is being received: its bytes, and how many of them, or of its chunks, were copied. */
  #bytes = 0;
  #copied = 0;
  #chunks = 0;
  /** From the descriptor: −1 before it was read. */
  #source = -1;
  #region = -1;
  #regionEpoch = 0;
  #leaseNumber = 0;
  #lease: Lease | null = null;

  constructor(die: Die, queue: ReceiveQueue, terms: Terms, borrows: boolean, address: number, room: number, copy?: CopyPiece) {
    this.#die = die;
    this.#queue = queue;
    this.#terms = terms;
    this.#address = address;
    this.#room = room;
    this.#borrows = borrows;
    this.#copy = copy ?? ((to, from, bytes) => die.space.copy(to, from, bytes));
    queue.receives.push(this);
  }

  get tag(): number {
    return this.#terms.tag;
  }

  /** Bytes that came, once it is done. */
  get bytes(): number {
    return this.#bytes;
  }

  /** What was borrowed, once it is done; null for a receive that borrows nothing. */
  get lease(): Lease | null {
    return this.#lease;
  }

  poll(): Poll {
    if (this.#end !== null) return this.#end;
    const broken = this.#terms.broken();
    if (broken !== null) return this.#fail(broken);
    const queue = this.#queue;
    const first = queue.firstOf(this.#terms.tag);
    // Whoever is first may have nobody left who polls it: its deadline is kept here.
    if (first !== this) first?.poll();
    if (first === this || queue.firstOf(this.#terms.tag) === this) {
      const isThere = queue.look();
      if (this.#base !== null && !queue.shows(this.#base)) return this.#fail(this.#withdrawn());
      if (isThere && queue.tag === this.#terms.tag) this.#take();
      if (this.#end !== null) return this.#end;
    }
    const expired = this.#terms.expired();
    if (expired === null) return this.#terms.pending;
    this.#die.counters.expired++;
    return this.#giveUp(expired);
  }

  cancel(): Poll {
    return this.#end ?? this.#giveUp(new MinipodError('cancelled', `${this.#terms.what} was cancelled`));
  }

  #take(): void {
    const queue = this.#queue;
    if (this.#base === null && queue.chunk === CHUNK.withdrawn) {
      queue.consume();
      return;
    }
    if (this.#base === null && !this.#begin()) return;
    if (queue.chunk >= 0) this.#takeChunks(queue.chunk + 1);
    else this.#takeDescribed();
  }

  /** False: it is not the message that was expected. */
  #begin(): boolean {
    const queue = this.#queue;
    const { event } = this.#terms;
    if (queue.eventId !== event) {
      // Who comes too late for this receive may be right for the next.
      if (this.#terms.expired() !== null) return false;
      this.#die.counters.mismatches++;
      this.#reject(STATUS.mismatch, event, new MinipodError('internal', `${this.#terms.what} failed: event ${queue.eventId} came`));
      return false;
    }
    if (queue.bytes > this.#room) {
      const error = new MinipodError('internal', `${this.#terms.what} failed: ${queue.bytes} bytes came, there is room for ${this.#room}`);
      this.#reject(STATUS.too_long, this.#room, error);
      return false;
    }
    this.#base = queue.base;
    this.#bytes = queue.bytes;
    this.#chunks = Math.max(1, Math.ceil(queue.bytes / this.#queue.slotBytes));
    return true;
  }

  /** `shown`: chunks of the message that are there. */
  #takeChunks(shown: number): void {
    const queue = this.#queue;
    const base = this.#base as number;
    for (; this.#copied < shown; this.#copied++) {
      const start = this.#copied * this.#queue.slotBytes;
      const bytes = Math.min(this.#queue.slotBytes, this.#bytes - start);
      if (bytes > 0) this.#copy(this.#address + start, queue.slotAt(base + this.#copied), bytes);
    }
    // More may have come meanwhile, or the message be withdrawn: the next look says which, and whether what was copied counts.
    if (!queue.isStill()) return;
    queue.consume();
    if (this.#copied < this.#chunks) queue.acknowledge((base + this.#copied) | 0, STATUS.taken, 0);
    else if (this.#deliver(this.#copied)) this.#die.counters.slots_bytes += this.#bytes;
  }

  #takeDescribed(): void {
    const queue = this.#queue;
    if (this.#source < 0 && !this.#readDescriptor()) return;
    const isLease = queue.chunk === CHUNK.lease;
    if (this.#borrows && isLease && segmentOf(this.#source) === segmentOf(this.#address)) {
      this.#takeInPlace();
      return;
    }
    const bytes = Math.min(PIECE_BYTES, this.#bytes - this.#copied);
    if (bytes > 0) this.#copy(this.#address + this.#copied, this.#source + this.#copied, bytes);
    this.#copied += bytes;
    if (this.#copied < this.#bytes || !queue.isStill()) return;
    // The region may have passed to another owner under the copy.
    if (!this.#isRegionCurrent()) {
      this.#refuse();
      return;
    }
    if (isLease) queue.release(this.#leaseNumber, false);
    queue.consume();
    if (!this.#deliver(1)) return;
    this.#die.counters.dma_bytes += this.#bytes;
    if (this.#borrows && isLease) this.#die.counters.lease_copies++;
  }

  #takeInPlace(): void {
    const queue = this.#queue;
    const lease = this.#leaseNumber;
    const base = this.#base as number;
    queue.consume();
    queue.acknowledge(base, STATUS.taking, 0);
    // The last look, see send.ts.
    const broken = this.#terms.broken();
    if (broken !== null || !queue.isStill()) {
      if (this.#terms.mayWrite) queue.release(lease, true);
      this.#fail(broken ?? this.#withdrawn());
      return;
    }
    queue.acknowledge((base + 1) | 0, STATUS.taken, 0);
    this.#die.counters.leases_borrowed++;
    this.#die.counters.zero_copy_bytes += this.#bytes;
    this.#die.counters.receives++;
    this.#lease = new Lease(this.#source, this.#bytes, this.#terms, () => {
      this.#die.counters.leases_borrowed--;
      if (this.#terms.mayWrite) queue.release(lease, true);
    });
    this.#close(DONE);
  }

  /** False: it is not the sender's memory, or not there any more. Words that are torn are found out by the last look, whatever was copied by them. */
  #readDescriptor(): boolean {
    const queue = this.#queue;
    this.#source = describedAddress(queue.descriptorWord(DESCRIPTOR_WORD.segment), queue.descriptorWord(DESCRIPTOR_WORD.offset));
    this.#regionEpoch = queue.descriptorWord(DESCRIPTOR_WORD.region_epoch);
    this.#leaseNumber = queue.descriptorWord(DESCRIPTOR_WORD.lease);
    return this.#bytes === 0 || this.#checkSource();
  }

  #checkSource(): boolean {
    try {
      this.#region = this.#die.ranges.check(this.#terms.die, this.#source, this.#bytes, 'read', this.#terms, this.#regionEpoch);
      return true;
    } catch (error) {
      if (!(error instanceof MinipodError)) throw error;
      this.#source = -1;
      if (!this.#queue.isStill()) return false;
      this.#die.counters.refusals++;
      this.#reject(STATUS.refused, 0, error);
      return false;
    }
  }

  #isRegionCurrent(): boolean {
    const { table } = this.#die.space;
    return this.#region < 0 || (table.epochOf(this.#region) === this.#regionEpoch && table.stateOf(this.#region) === 'held');
  }

  /** Says how the region has changed. */
  #refuse(): void {
    if (this.#checkSource())
      this.#reject(STATUS.refused, 0, new MinipodError('memory_fault', `${this.#terms.what} ended: its source changed hands while it was copied`));
  }

  /** Acknowledges the whole message, unless it was broken under the copy. */
  #deliver(chunks: number): boolean {
    const broken = this.#terms.broken();
    if (broken !== null) {
      this.#fail(broken);
      return false;
    }
    this.#queue.acknowledge(((this.#base as number) + chunks) | 0, STATUS.taken, 0);
    this.#die.counters.receives++;
    if (this.#borrows) this.#lease = new Lease(this.#address, this.#bytes, this.#terms, null);
    this.#close(DONE);
    return true;
  }

  #reject(status: Status, detail: number, error: MinipodError): void {
    const queue = this.#queue;
    queue.consume();
    queue.close(queue.base);
    queue.acknowledge(queue.base, status, detail);
    this.#fail(error);
  }

  #giveUp(error: MinipodError): Poll {
    const queue = this.#queue;
    if (this.#base !== null && queue.shows(this.#base)) {
      queue.close(this.#base);
      queue.acknowledge(this.#base, STATUS.given_up, 0);
    }
    return this.#fail(error);
  }

  #withdrawn(): MinipodError {
    return new MinipodError('cancelled', `${this.#terms.what} ended: its sender gave it up`);
  }

  #fail(error: MinipodError): Poll {
    this.#die.counters.failures++;
    return this.#close(failed(error));
  }

  #close(end: Poll): Poll {
    this.#queue.leave(this);
    this.#end = end;
    return end;
  }
}
