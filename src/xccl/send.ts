/**
 * Sends one message to a peer (xDeepServe §3.1, steps 1 to 4 and 8), by one of three paths.
 *
 *   slots   (1)(2) chunk by chunk into this die's slots in the peer's managed area, (3) tailPtr advances with each, (4) until all are acknowledged (8).
 *           Two slots or more: one is filled while the peer empties the other.
 *   dma     one descriptor; the peer copies straight from the sender's memory and acknowledges.
 *   lease   one descriptor; the peer uses the memory where it is. Acknowledged as being taken, taken, and released.
 *
 * The memory is the sender's again when the operation has ended, not before.
 *
 * Race: a sender whose deadline passes withdraws the message first, and only then may its memory change. A receiver looks at the field once more after it
 * has copied: either it sees the withdrawal, and delivers nothing, or it had copied before. A lease is acknowledged as being taken before that last look, and
 * the sender looks for the acknowledgement after it has withdrawn: so at least one of both sees the other, and a lease that may have been taken is waited for.
 * @module
 */

import { MinipodError } from '../protocol/errors.ts';
import type { Die } from './die.ts';
import { CHUNK, STATUS } from './message.ts';
import { DONE, failed, type Operation, type Poll } from './operation.ts';
import type { SendQueue } from './send-queue.ts';
import type { Terms } from './terms.ts';

export type Path = 'slots' | 'dma' | 'lease';
const NO_LEASE = 0;

export class Send implements Operation {
  readonly #die: Die;
  readonly #queue: SendQueue;
  readonly #terms: Terms;
  readonly #path: Path;
  readonly #address: number;
  readonly #bytes: number;
  readonly #regionEpoch: number;
  readonly #chunks: number;
  #end: Poll | null = null;
  #isLent = false;
  #lease = -1;
  /** Count of the pair's chunks at the message's first. */
  #base = 0;
  /** Chunks of this message that were written. */
  #written = 0;
  /** Events of the first and the last of its fields. */
  #first = 0;
  #last = 0;

  constructor(die: Die, queue: SendQueue, terms: Terms, path: Path, address: number, bytes: number, regionEpoch: number) {
    this.#die = die;
    this.#queue = queue;
    this.#terms = terms;
    this.#path = path;
    this.#address = address;
    this.#bytes = bytes;
    this.#regionEpoch = regionEpoch;
    this.#chunks = path === 'slots' ? Math.max(1, Math.ceil(bytes / queue.slotBytes)) : 1;
    queue.sends.push(this);
  }

  poll(): Poll {
    if (this.#end !== null) return this.#end;
    const broken = this.#terms.broken();
    if (broken !== null) return this.#giveUp(broken, false);
    const queue = this.#queue;
    if (this.#isLent) {
      queue.look();
      return queue.isReleased(this.#lease) ? this.#finish() : this.#terms.pending;
    }
    // Whoever is first may have nobody left who polls it: its deadline is kept here.
    if (queue.sends[0] !== this) queue.sends[0]?.poll();
    const isFirst = queue.sends[0] === this;
    if (isFirst && this.#written > 0) {
      this.#takeAnswer();
      if (this.#end !== null) return this.#end;
      if (this.#isLent) return this.#terms.pending;
    }
    const expired = this.#terms.expired();
    if (expired !== null) {
      this.#die.counters.expired++;
      return this.#giveUp(expired, true);
    }
    if (isFirst) this.#write();
    return this.#terms.pending;
  }

  /** Gives it up. A lease that was taken stays out: the operation goes on until it is released. */
  cancel(): Poll {
    return this.#end ?? this.#giveUp(new MinipodError('cancelled', `${this.#terms.what} was cancelled`), true);
  }

  #write(): void {
    if (this.#written === 0) this.#base = this.#queue.tail;
    if (this.#path === 'slots') this.#fillSlots();
    else if (this.#written === 0) this.#publishDescriptor();
  }

  #fillSlots(): void {
    const queue = this.#queue;
    const { slotBytes } = queue;
    const acknowledged = this.#acknowledged();
    while (this.#written < this.#chunks && this.#written - acknowledged < queue.slots) {
      const start = this.#written * slotBytes;
      const bytes = Math.min(slotBytes, this.#bytes - start);
      if (bytes > 0) this.#die.space.copy(queue.slotAt(this.#base + this.#written), this.#address + start, bytes);
      this.#publish(this.#written);
    }
  }

  #publishDescriptor(): void {
    const queue = this.#queue;
    if (this.#path === 'lease') {
      this.#lease = queue.takeLease();
      if (this.#lease < 0) {
        queue.look();
        return;
      }
    }
    queue.describe(this.#address, this.#regionEpoch, this.#path === 'lease' ? this.#lease : NO_LEASE);
    this.#publish(this.#path === 'lease' ? CHUNK.lease : CHUNK.descriptor);
  }

  #publish(chunk: number): void {
    this.#written++;
    this.#last = this.#queue.publish((this.#base + this.#written) | 0, chunk, this.#terms.event, this.#terms.tag, this.#bytes);
    if (this.#written === 1) this.#first = this.#last;
  }

  /** Chunks of this message that the peer has taken. */
  #acknowledged(): number {
    return this.#isAnswered() ? (this.#queue.head - this.#base) | 0 : 0;
  }

  #isAnswered(): boolean {
    const { answers } = this.#queue;
    return this.#written > 0 && ((answers - this.#first) | 0) >= 0 && ((this.#last - answers) | 0) >= 0;
  }

  #takeAnswer(): void {
    const queue = this.#queue;
    queue.look();
    if (!this.#isAnswered() || queue.status === STATUS.taking) return;
    if (queue.status !== STATUS.taken) {
      if (this.#path === 'lease') queue.forgetLease(this.#lease);
      this.#fail(this.#answerError());
    } else if (this.#acknowledged() === this.#chunks) {
      if (this.#path === 'lease') this.#lend();
      else this.#finish();
    }
  }

  /** Taken: the pair is free for the next message, the memory is not. */
  #lend(): void {
    this.#isLent = true;
    this.#die.counters.leases_lent++;
    this.#queue.leave(this);
    if (this.#queue.isReleased(this.#lease)) this.#finish();
  }

  /** `waitsForLease`: a lease that the peer has taken is waited for all the same. */
  #giveUp(error: MinipodError, waitsForLease: boolean): Poll {
    const queue = this.#queue;
    if (this.#isLent) return waitsForLease ? this.#terms.pending : this.#fail(error);
    if (this.#written > 0 && this.#terms.mayWrite) {
      this.#last = queue.publish(queue.tail, CHUNK.withdrawn, this.#terms.event, this.#terms.tag, this.#bytes);
      if (this.#path === 'lease') {
        queue.look();
        const isTaken = this.#isAnswered() && (queue.status === STATUS.taking || queue.status === STATUS.taken);
        if (isTaken && waitsForLease) {
          this.#lend();
          return this.#end ?? this.#terms.pending;
        }
        if (!isTaken) queue.forgetLease(this.#lease);
      }
    }
    return this.#fail(error);
  }

  #answerError(): MinipodError {
    const { status, detail } = this.#queue;
    const { what, rank } = this.#terms;
    if (status === STATUS.mismatch) return new MinipodError('internal', `${what} failed: rank ${rank} expects event ${detail}`);
    if (status === STATUS.too_long) return new MinipodError('internal', `${what} failed: ${this.#bytes} bytes, rank ${rank} has room for ${detail >>> 0}`);
    if (status === STATUS.refused) return new MinipodError('memory_fault', `${what} failed: rank ${rank} refused its descriptor`);
    return new MinipodError('cancelled', `${what} failed: rank ${rank} gave its receive up`);
  }

  #finish(): Poll {
    this.#die.counters.sends++;
    this.#die.counters.sent_bytes += this.#bytes;
    return this.#close(DONE);
  }

  #fail(error: MinipodError): Poll {
    this.#die.counters.failures++;
    return this.#close(failed(error));
  }

  #close(end: Poll): Poll {
    if (this.#isLent) this.#die.counters.leases_lent--;
    this.#isLent = false;
    this.#queue.leave(this);
    this.#end = end;
    // The next message goes out at once. After a failure it is for its own poll to say how it fares, so that a long queue is no deep recursion.
    if (end === DONE) this.#queue.sends[0]?.poll();
    return end;
  }
}
