/**
 * The scale-out fabric as the thread that pulls sees it: verbs become entries of a queue pair, and are done when the network card has completed them.
 * Nothing here knows of sockets.
 * @module
 */
import { offsetOf, segmentOf } from '../../../fabric/address.ts';
import { assert, MinipodError } from '../../../protocol/errors.ts';
import type { Backend, Pieces, WorkRequest } from '../backend.ts';
import { ENTRIES, ENTRY, OP, type Op, type QueuePair, STAGING_WORDS, STATUS } from './queue-pair.ts';

/** What a request of several entries waits for: reused in turn, as nothing may be allocated by a poll. */
type Waiting = { work: WorkRequest | null; last: number; into: Int32Array | null; count: number; staged: number; staged_end: number };

const OP_NAMES: Readonly<Record<number, string>> = Object.fromEntries(Object.entries(OP).map(([name, op]) => [op, name]));

export type SocketBackendOptions = {
  readonly queue: QueuePair;
  /** The epoch of the thread that pulls, as it knows it. */
  readonly owner: number;
  /** Tells the card that there is something to do. */
  readonly ring: () => void;
  readonly now_ms: () => number;
  /** A card that is asked and has answered nothing for so long hangs. */
  readonly deadline_ms: number;
  /** Who had the queue pair before, on this thread. */
  readonly before?: SocketBackend | undefined;
};

export class SocketBackend implements Backend {
  readonly isMemory = false;
  readonly now_ms: () => number;
  broken: MinipodError | null = null;
  readonly #queue: QueuePair;
  readonly #options: SocketBackendOptions;
  #isOpen = false;
  #before: SocketBackend | undefined;
  /** As far as was seen: then the queue pair may be another's. */
  #isClosed = false;
  /** When something was answered last, or asked while nothing was awaited. */
  #answered_ms = 0;
  readonly #waiting: readonly Waiting[];
  #first = 0;
  #next = 0;
  /** The ring of staged words, by counts that only grow. */
  #staged = 0;
  #unstaged = 0;
  #posted = 0;
  #completed = 0;

  constructor(options: SocketBackendOptions) {
    this.#queue = options.queue;
    this.#options = options;
    this.now_ms = options.now_ms;
    this.#before = options.before;
    this.#waiting = Array.from({ length: ENTRIES }, () => ({ work: null, last: 0, into: null, count: 0, staged: 0, staged_end: 0 }));
  }

  read(work: WorkRequest, { to, from, bytes, count }: Pieces): void {
    if (!this.#begin(work, count, 0)) return;
    for (let piece = 0; piece < count; piece++) {
      const target = to[piece] as number;
      this.#put(OP.read, bytes[piece] as number, from[piece] as number, segmentOf(target), offsetOf(target), 0, 0);
    }
    this.#post(work, null, 0, 0);
  }

  readWords(work: WorkRequest, base: number, indices: Int32Array | null, count: number, into: Int32Array): void {
    assert(count <= STAGING_WORDS / 2, `${count} words are asked for at once, ${STAGING_WORDS / 2} may be`);
    if (!this.#begin(work, 1, count)) return;
    const staged = this.#stage(count);
    if (indices !== null) this.#queue.staging.set(indices.subarray(0, count), staged);
    this.#put(indices === null ? OP.words : OP.gather, count * 4, base, 0, staged, 0, 0);
    this.#post(work, into, count, staged);
  }

  compareSwap(work: WorkRequest, address: number, expected: number, next: number): void {
    if (!this.#begin(work, 1, 0)) return;
    this.#put(OP.swap, 0, address, 0, 0, expected, next);
    this.#post(work, null, 0, 0);
  }

  regionEpoch(work: WorkRequest, address: number, bytes: number): void {
    if (!this.#begin(work, 1, 0)) return;
    // A span may be longer than what 32 bits hold.
    this.#put(OP.epoch, 0, address, 0, 0, Math.floor(bytes / 2 ** 32), bytes | 0);
    this.#post(work, null, 0, 0);
  }

  poll(): void {
    if (!this.#isOpen) return;
    const before = this.#first;
    const isClosed = this.#isClosed || this.#queue.isClosed;
    if (!this.#isClosed) this.#completed = this.#queue.completed;
    while (this.#first !== this.#next) {
      const waiting = this.#waiting[this.#first & (ENTRIES - 1)] as Waiting;
      if (((this.#completed - waiting.last) | 0) < 0) break;
      this.#finish(waiting);
      this.#first++;
    }
    if (!isClosed) {
      if (this.#first !== before) this.#answered_ms = this.#options.now_ms();
      else if (this.#isAwaiting && this.broken === null && this.#isLate) this.#closeLate();
      return;
    }
    this.#isClosed = true;
    this.broken ??= this.#whyClosed;
    for (; this.#first !== this.#next; this.#first++) this.#fail(this.#waiting[this.#first & (ENTRIES - 1)] as Waiting, this.broken);
  }

  close(reason: MinipodError): void {
    this.broken ??= reason;
    if (!this.#isOpen || this.#isClosed) return;
    this.#queue.askToClose();
    this.#options.ring();
  }

  get isClosed(): boolean {
    this.#isClosed ||= this.#isOpen ? this.#queue.isClosed : this.broken !== null;
    return this.#isClosed;
  }

  get isWaiting(): boolean {
    return this.#isAwaiting && !this.#queue.isClosed && this.#queue.completed === this.#completed;
  }

  get #whyClosed(): MinipodError {
    const { refusal } = this.#queue;
    return refusal === '' ? new MinipodError('worker_failed', 'the connection ended') : new MinipodError('invalid_request', refusal);
  }

  get #isAwaiting(): boolean {
    return this.#first !== this.#next;
  }

  /** The card has closed the queue pair, and whoever had it before knows it. */
  get #isFree(): boolean {
    if (this.#isOpen) return this.isClosed;
    return this.#before === undefined ? this.#queue.openings === 0 || this.#queue.isClosed : this.#before.#isFree;
  }

  get #isLate(): boolean {
    return this.#options.now_ms() - this.#answered_ms > this.#options.deadline_ms;
  }

  #closeLate(): void {
    const { last } = this.#waiting[this.#first & (ENTRIES - 1)] as Waiting;
    const op = OP_NAMES[this.#queue.words[this.#queue.entryAt(last - 1) + ENTRY.op] as number];
    this.close(new MinipodError('deadline_exceeded', `the network card has answered nothing for ${this.#options.deadline_ms / 1000} s; '${op}' is awaited`));
  }

  /** False: the card has yet to let go of the queue pair. */
  #mayPost(): boolean {
    if (this.#isOpen) return true;
    if (!this.#isFree) return false;
    this.#before = undefined;
    this.#queue.open(this.#options.owner);
    this.#isOpen = true;
    return true;
  }

  /** False: it has failed, or there is no room yet. */
  #begin(work: WorkRequest, entries: number, words: number): boolean {
    if (this.broken !== null) {
      work.fail(this.broken);
      return false;
    }
    if (!this.#mayPost()) return false;
    const hasEntries = ENTRIES - (this.#posted - this.#completed) >= entries;
    // What does not fit before the end of the staging begins at its start: the rest is wasted until it comes round.
    const skipped = this.#staged % STAGING_WORDS > STAGING_WORDS - words ? STAGING_WORDS - (this.#staged % STAGING_WORDS) : 0;
    return hasEntries && this.#staged + skipped + words - this.#unstaged <= STAGING_WORDS;
  }

  /** Index of the first word. */
  #stage(count: number): number {
    const at = this.#staged % STAGING_WORDS;
    if (at > STAGING_WORDS - count) this.#staged += STAGING_WORDS - at;
    const first = this.#staged % STAGING_WORDS;
    this.#staged += count;
    return first;
  }

  #put(op: Op, bytes: number, address: number, target_segment: number, target_offset: number, a: number, b: number): void {
    const { words } = this.#queue;
    const at = this.#queue.entryAt(this.#posted);
    words[at + ENTRY.op] = op;
    words[at + ENTRY.bytes] = bytes;
    words[at + ENTRY.segment] = segmentOf(address);
    words[at + ENTRY.offset] = offsetOf(address);
    words[at + ENTRY.target_segment] = target_segment;
    words[at + ENTRY.target_offset] = target_offset;
    words[at + ENTRY.a] = a;
    words[at + ENTRY.b] = b;
    this.#posted = (this.#posted + 1) | 0;
  }

  #post(work: WorkRequest, into: Int32Array | null, count: number, staged: number): void {
    const waiting = this.#waiting[this.#next & (ENTRIES - 1)] as Waiting;
    waiting.work = work;
    waiting.last = this.#posted;
    waiting.into = into;
    waiting.count = count;
    waiting.staged = staged;
    waiting.staged_end = this.#staged;
    if (!this.#isAwaiting) this.#answered_ms = this.#options.now_ms();
    this.#next++;
    work.state = 'posted';
    this.#queue.posted = this.#posted;
    this.#options.ring();
  }

  #finish(waiting: Waiting): void {
    const { words, staging } = this.#queue;
    const work = waiting.work as WorkRequest;
    const at = this.#queue.entryAt(waiting.last - 1);
    if (words[at + ENTRY.status] !== STATUS.done) {
      this.#fail(waiting, new MinipodError('memory_fault', 'the source has no such memory, or it is not held'));
      return;
    }
    work.value = words[at + ENTRY.value] as number;
    const { into, staged } = waiting;
    if (into !== null) for (let index = 0; index < waiting.count; index++) into[index] = staging[staged + index] as number;
    this.#unstaged = waiting.staged_end;
    work.state = 'done';
    waiting.work = null;
  }

  #fail(waiting: Waiting, error: MinipodError): void {
    (waiting.work as WorkRequest).fail(error);
    this.#unstaged = waiting.staged_end;
    waiting.work = null;
  }
}
