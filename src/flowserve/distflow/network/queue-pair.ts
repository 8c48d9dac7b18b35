/**
 * Between a thread that pulls, which never waits nor serves an event loop, and the network card's thread, which does nothing else: as an RDMA card has it,
 * a queue of work in shared memory, worked off in order.
 *
 *   word 0     posted       counts entries, by the thread that pulls
 *        1     completed    counts entries, by the card
 *        2     closing      1: nothing more is wanted
 *        3     closed       1: the card writes nothing any more, neither here nor to where bytes were to go; its last store
 *        4     owner        the epoch of the thread that pulls, as it knows it: of one that was given up the card serves nothing
 *        5     openings     counts how often it was opened; stored last by whoever opens it, who has all of it while it is closed
 *        6     refused      bytes of the reason why the source does not link, in UTF-8 at the staging's beginning; 0: it did not say so
 *       16     entries      [ENTRIES] 12 words each
 *        …     staging      words that are read, and before that which ones: [STAGING_WORDS], as a ring
 *
 * Race: an entry's words are stored before `posted` is, its status and whatever came before `completed` is; each is read after that count. Between the two
 * counts an entry is the card's.
 * @module
 */

export const OP = { read: 1, words: 2, gather: 3, swap: 4, epoch: 5 } as const;
export type Op = (typeof OP)[keyof typeof OP];
export const STATUS = { done: 1, fault: 2, refused: 3 } as const;

/** `target`: where bytes go to as segment and offset; of words the index in the staging. `a`, `b`: expected and next of a swap. */
export const ENTRY = { op: 0, bytes: 1, segment: 2, offset: 3, target_segment: 4, target_offset: 5, a: 6, b: 7, status: 8, value: 9 } as const;
const ENTRY_WORDS = 12;
/** More than a scatter list has pieces. */
export const ENTRIES = 512;
export const STAGING_WORDS = 65_536;
const WORD = { posted: 0, completed: 1, closing: 2, closed: 3, owner: 4, openings: 5, refused: 6 } as const;
const ENTRIES_AT = 16;
const STAGING_AT = ENTRIES_AT + ENTRIES * ENTRY_WORDS;
const QUEUE_WORDS = STAGING_AT + STAGING_WORDS;

/** One end's view; the buffer passes to other threads. */
export class QueuePair {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly staging: Int32Array;

  constructor(buffer = new SharedArrayBuffer(QUEUE_WORDS * 4)) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer);
    this.staging = this.words.subarray(STAGING_AT);
  }

  /** Index of the entry's first word; `count` may have wrapped. */
  entryAt(count: number): number {
    return ENTRIES_AT + (count & (ENTRIES - 1)) * ENTRY_WORDS;
  }

  get posted(): number {
    return Atomics.load(this.words, WORD.posted);
  }

  set posted(count: number) {
    Atomics.store(this.words, WORD.posted, count);
  }

  get completed(): number {
    return Atomics.load(this.words, WORD.completed);
  }

  set completed(count: number) {
    Atomics.store(this.words, WORD.completed, count);
  }

  get isClosing(): boolean {
    return Atomics.load(this.words, WORD.closing) === 1;
  }

  get isClosed(): boolean {
    return Atomics.load(this.words, WORD.closed) === 1;
  }

  /** By the thread that pulls, in its life `owner`: it was never opened, or the card has closed it and whoever opened it before has seen that. */
  open(owner: number): void {
    const { words } = this;
    for (const word of [WORD.posted, WORD.completed, WORD.closing, WORD.closed, WORD.refused]) Atomics.store(words, word, 0);
    Atomics.store(words, WORD.owner, owner);
    Atomics.add(words, WORD.openings, 1);
  }

  get owner(): number {
    return Atomics.load(this.words, WORD.owner);
  }

  /** Modulo 2³²; 0: never. */
  get openings(): number {
    return Atomics.load(this.words, WORD.openings);
  }

  /** By the card, before it closes. */
  refuse(why: string): void {
    const bytes = new TextEncoder().encode(why);
    new Uint8Array(this.staging.buffer, this.staging.byteOffset, bytes.length).set(bytes);
    Atomics.store(this.words, WORD.refused, bytes.length);
  }

  /** '': it was not refused. */
  get refusal(): string {
    const bytes = Atomics.load(this.words, WORD.refused);
    return new TextDecoder().decode(new Uint8Array(this.staging.buffer, this.staging.byteOffset, bytes).slice());
  }

  askToClose(): void {
    Atomics.store(this.words, WORD.closing, 1);
  }

  close(): void {
    Atomics.store(this.words, WORD.closed, 1);
  }
}
