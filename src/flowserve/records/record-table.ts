/**
 * Request records: all that it takes to go on with a request elsewhere lies in shared memory, so that no job executor is the only one who knows of it.
 *
 *   region:   | record | record | … one for each choice that the pod may hold   | page | page | …
 *   record:   | version | owner | call | choice | prompt in | prompt tokens | terms bytes | terms at | output at | output tokens | state | deadline at | …     16 words
 *   page:     | next | 63 words: terms, then prompt; or output |                of terms and prompt one chain for each call, of output one for each choice
 *
 * Who writes: the control thread, when a call opens, all but the output (request-records.ts); then the caller's thread each token as it is delivered there, and
 * the call's end (delivered-records.ts): so "tokens so far" are those that the caller has, and no DP group, alive, dead or given up, can say otherwise. Whoever
 * goes on may compute some of them again, which are told to nobody twice: they are the same, or the call goes on once more (delivery.ts). Whoever takes a request
 * over writes the owner, by compare-and-swap, and nothing else; and so does the control thread where one that had ended goes on, since tokens of it were lost on
 * their way to the caller, or are not those that its caller has.
 *
 * Order: a record is written while its version is odd, and counts when it is even; a token lies in its page before the count says so, and a page is linked
 * before it is counted in; that a choice has all of its tokens is said before the last of them counts. A reader copies, then looks whether the version is still
 * the same: pages of a request that has ended are written anew for another.
 *
 * Memory: 64 bytes a choice, and pages for `records_tokens` (pod-plan.ts). A request for which they do not suffice runs all the same, but is lost with its job
 * executor; one that outgrows them goes on from what there was room for.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Region } from '../../fabric/memory-plan.ts';
import { assert, invariantBroken } from '../../protocol/errors.ts';

/** Words of a record. */
export const RECORD = Object.freeze({
  version: 0,
  owner: 1,
  /** Or FREE: nobody has the record. */
  call: 2,
  choice: 3,
  /** Index of the record that has the prompt: of the call's first choice. */
  prompt_in: 4,
  prompt_tokens: 5,
  terms_bytes: 6,
  terms_at: 7,
  output_at: 8,
  output_tokens: 9,
  state: 10,
  /** Milliseconds since the pod's start, or −1: none. */
  deadline_at: 11,
});
export const RECORD_WORDS = 16;
export const PAGE_WORDS = 64;
assert(Math.max(...Object.values(RECORD)) < RECORD_WORDS, 'a record outgrows its words');

export const RECORD_STATE = Object.freeze({ open: 0, finished: 1 });

/** Who answers for a request: a job executor in one of its lives, at which attempt. One word. */
export type Owner = { readonly job_executor: number; readonly life: number; readonly attempt: number };
const LIFE_MASK = 0xffff;
export const packOwner = ({ job_executor, life, attempt }: Owner): number => ((life & LIFE_MASK) << 8) | (attempt << 4) | (job_executor + 1);
export const unpackOwner = (word: number): Owner => ({ job_executor: (word & 0xf) - 1, attempt: (word >>> 4) & 0xf, life: word >>> 8 });

/** Where the records lie, as every thread sees it. */
export class RecordTable {
  readonly words: Int32Array;
  readonly records: number;
  readonly pages: number;
  readonly #base: number;
  readonly #pages: number;

  constructor(space: Pick<AddressSpace, 'wordsOf'>, region: Pick<Region, 'base' | 'bytes'>, records: number) {
    this.words = space.wordsOf(region.base);
    this.records = records;
    this.#base = (region.base % 2 ** 32) / 4;
    this.#pages = this.#base + records * RECORD_WORDS;
    this.pages = Math.floor((region.bytes / 4 - records * RECORD_WORDS) / PAGE_WORDS);
  }

  /** An empty one of the same size, in memory of this thread's alone. */
  apart(): RecordTable {
    const bytes = (this.records * RECORD_WORDS + this.pages * PAGE_WORDS) * 4;
    const words = new Int32Array(bytes / 4);
    return new RecordTable({ wordsOf: () => words }, { base: 0, bytes }, this.records);
  }

  /** Index of a record's word. */
  at(record: number, word: number): number {
    if (record < 0 || record >= this.records) invariantBroken(`record ${record} of ${this.records}`);
    return this.#base + record * RECORD_WORDS + word;
  }

  load(record: number, word: number): number {
    return Atomics.load(this.words, this.at(record, word));
  }

  store(record: number, word: number, value: number): void {
    Atomics.store(this.words, this.at(record, word), value);
  }

  /** From now on what was read of the record does not count; or does. */
  bump(record: number): void {
    Atomics.add(this.words, this.at(record, RECORD.version), 1);
  }

  pageAt(page: number): number {
    if (page < 0 || page >= this.pages) invariantBroken(`page ${page} of ${this.pages}`);
    return this.#pages + page * PAGE_WORDS;
  }
}
