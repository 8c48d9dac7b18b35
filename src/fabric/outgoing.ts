/**
 * The sending end of a link: a ring, and an outbox for what found no room in it. Nothing is lost and nothing overtakes, and the sender never waits:
 * how much waits, and for how long the peer has read nothing, are values that it can look at.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { Lane } from './link-counters.ts';
import type { FrameAddress, RingProducer } from './ring.ts';
import { PAYLOAD_BYTES_MAX } from './ring-layout.ts';
import { copyWords, wordsOfBytes } from './scratch.ts';

export const LIMITS = Object.freeze({
  /** What may wait for room on one link before its sender is stuck for good. */
  outbox_payloads_max: 65_536,
  outbox_bytes_max: 2 ** 30,
  /** A peer that reads nothing for so long although there is something to read no longer drains its rings: longer than any step or collection. */
  stall_ms_max: 60_000,
});

type Waiting = FrameAddress & { readonly words: Int32Array; readonly bytes: number; readonly time: number };

/** Entries of the outbox that were sent are cut off in one go when there are so many. */
const CUT_PAYLOADS = 1_024;

export class Outgoing {
  readonly peer: number;
  readonly lane: Lane;
  readonly producer: RingProducer;
  frames = 0;
  bytes = 0;
  full = 0;
  wakes = 0;
  waiting_bytes = 0;
  /** The entries from `#first` on wait; of the first one, the bytes before `#at` are sent. */
  #outbox: Waiting[] = [];
  #first = 0;
  #at = 0;
  /** Where the peer's index stood when it was first seen to stand still, and when that was; negative: it moves, or there is nothing to read. */
  #stalledTail = 0;
  #stalledSince_ms = -1;

  constructor(peer: number, lane: Lane, producer: RingProducer) {
    this.peer = peer;
    this.lane = lane;
    this.producer = producer;
  }

  /** Payloads in the outbox. */
  get waiting(): number {
    return this.#outbox.length - this.#first;
  }

  /**
   * Sends `bytes` bytes of `words` from `from` on. False: there was no room for all of it, so the rest waits here, copied, since the caller reuses its memory.
   * @throws `invalid_request` for a payload that no ring takes, `internal` when more waits than LIMITS allow; nothing of the payload is sent or kept then.
   */
  send(header: Readonly<FrameAddress>, words: Int32Array, from: number, bytes: number, time: number): boolean {
    if (this.#first === this.#outbox.length && bytes <= this.producer.whole_bytes_max && this.producer.write(header, words, from, bytes, time)) {
      this.frames++;
      this.bytes += bytes;
      return true;
    }
    if (bytes > PAYLOAD_BYTES_MAX)
      throw new MinipodError(
        'invalid_request',
        `a payload of ${bytes} bytes for the ${this.lane} ring of thread ${this.peer}: at most ${PAYLOAD_BYTES_MAX} travel`,
      );
    const { kind, source, destination, roles } = header;
    if (this.waiting >= LIMITS.outbox_payloads_max || this.waiting_bytes + bytes > LIMITS.outbox_bytes_max)
      throw new MinipodError('internal', `${this.#describe()} stopped draining: no more than that may wait`);
    const copy = new Int32Array(wordsOfBytes(bytes));
    copyWords(copy, 0, words, from, copy.length);
    this.#outbox.push({ kind, source, destination, roles, words: copy, bytes, time });
    this.waiting_bytes += bytes;
    // A payload in parts that fits as a whole has met no full ring.
    this.drain();
    if (this.waiting === 0) return true;
    this.full++;
    return false;
  }

  /** Moves what waits into the ring as far as there is room. */
  drain(): void {
    const { producer } = this;
    while (this.#first < this.#outbox.length) {
      const next = this.#outbox[this.#first] as Waiting;
      if (!this.#write(next)) break;
      this.#at = 0;
      this.#first++;
      this.waiting_bytes -= next.bytes;
    }
    if (this.#first === this.#outbox.length || this.#first >= CUT_PAYLOADS) {
      this.#outbox.splice(0, this.#first);
      this.#first = 0;
    }
    producer.setWaits(this.#outbox.length > 0);
  }

  /** False: not all of it has found room yet. */
  #write(next: Waiting): boolean {
    const { producer } = this;
    if (next.bytes <= producer.whole_bytes_max) {
      if (!producer.write(next, next.words, 0, next.bytes, next.time)) return false;
      this.frames++;
      this.bytes += next.bytes;
      return true;
    }
    while (this.#at < next.bytes) {
      const part = producer.writePart(next, next.words, this.#at, next.bytes, next.time);
      if (part === 0) return false;
      this.#at += part;
      this.frames++;
      this.bytes += part;
    }
    return true;
  }

  /** Could what waits go on, since the peer has read? */
  hasRoom(): boolean {
    return this.#first < this.#outbox.length && this.producer.hasNews();
  }

  /** For how long the peer has read nothing although published frames are unread or payloads wait, counted from the first time that this was asked. */
  stalled_ms(now_ms: number): number {
    const { tail, published } = this.producer;
    if (tail === published && this.waiting === 0) {
      this.#stalledSince_ms = -1;
      return 0;
    }
    if (this.#stalledSince_ms < 0 || tail !== this.#stalledTail) {
      this.#stalledTail = tail;
      this.#stalledSince_ms = now_ms;
    }
    return now_ms - this.#stalledSince_ms;
  }

  /** @throws `deadline_exceeded` when the peer has read nothing for too long. */
  checkStall(now_ms: number): void {
    if (this.stalled_ms(now_ms) <= LIMITS.stall_ms_max) return;
    throw new MinipodError('deadline_exceeded', `${this.#describe()} stopped draining: it has read nothing for more than ${LIMITS.stall_ms_max / 1000} s`);
  }

  #describe(): string {
    const { tail, published } = this.producer;
    if (this.waiting === 0) return `thread ${this.peer}, in whose ${this.lane} ring ${(published - tail) | 0} bytes are unread,`;
    return `thread ${this.peer}, for whose ${this.lane} ring ${this.waiting} frames of ${this.waiting_bytes} bytes wait,`;
  }
}
