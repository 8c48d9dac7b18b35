/**
 * Request records: all that it takes to go on with a request elsewhere lies in shared memory, so that no job executor is the only one who knows of it.
 *
 *   region:   | record | record | … one for each choice that the pod may hold   | page | page | …
 *   record:   | version | owner | call | choice | prompt in | prompt tokens | terms bytes | terms at | output at | output tokens | state | deadline at | …     16 words
 *   page:     | next | 63 words: terms, then prompt; or output |                of terms and prompt one chain for each call, of output one for each choice
 *
 * The frontend writes them, alone: at submit all but the output; then each token as it is delivered to the caller, so "tokens so far" are those that the caller
 * has, and whoever goes on repeats none and leaves none out. Whoever takes a request over writes the owner, by compare-and-swap, and nothing else.
 *
 * Order: a record is written while its version is odd, and counts when it is even; a token lies in its page before the count says so; a page is linked before it
 * is counted in. A reader copies, then looks whether the version is still the same: pages of a request that has ended are written anew for another.
 *
 * Memory: 64 bytes a choice, and pages for `records_tokens` (pod-plan.ts). A request for which they do not suffice runs all the same, but is lost with its job executor.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Region } from '../fabric/memory-plan.ts';
import { assert } from '../protocol/errors.ts';
import type { Sequence } from '../protocol/messages.ts';
import { attemptOf, callOf, jobExecutorOf } from '../protocol/request-ids.ts';
import { Codec } from '../protocol/wire.ts';

/** Words of a record. */
export const RECORD = Object.freeze({
  version: 0,
  owner: 1,
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
const PAGE_DATA_WORDS = PAGE_WORDS - 1;
assert(Math.max(...Object.values(RECORD)) < RECORD_WORDS, 'a record outgrows its words');

/** `cut`: there was no room for all of it. */
export const RECORD_STATE = Object.freeze({ open: 0, finished: 1, cut: 2 });
/** No page. */
const NONE = -1;

/** Who answers for a request: a job executor in one of its lives, at which attempt. One word. */
export type Owner = { readonly job_executor: number; readonly life: number; readonly attempt: number };
const LIFE_MASK = 0xffff;
export const packOwner = ({ job_executor, life, attempt }: Owner): number => ((life & LIFE_MASK) << 8) | (attempt << 4) | (job_executor + 1);
export const unpackOwner = (word: number): Owner => ({ job_executor: (word & 0xf) - 1, attempt: (word >>> 4) & 0xf, life: word >>> 8 });

export const recordsBytes = (records: number, tokens: number): number => (records * RECORD_WORDS + pagesFor(tokens) * PAGE_WORDS) * 4;
const pagesFor = (words: number): number => Math.ceil(words / PAGE_DATA_WORDS);

/** Where the records lie, as every thread sees it. */
export class RecordTable {
  readonly words: Int32Array;
  readonly records: number;
  readonly pages: number;
  readonly #base: number;
  readonly #pages: number;

  constructor(space: AddressSpace, region: Region, records: number) {
    this.words = space.wordsOf(region.base);
    this.records = records;
    this.#base = (region.base % 2 ** 32) / 4;
    this.#pages = this.#base + records * RECORD_WORDS;
    this.pages = Math.floor((region.bytes / 4 - records * RECORD_WORDS) / PAGE_WORDS);
  }

  /** Index of a record's word. */
  at(record: number, word: number): number {
    if (record < 0 || record >= this.records) assert(false, `record ${record} of ${this.records}`);
    return this.#base + record * RECORD_WORDS + word;
  }

  pageAt(page: number): number {
    if (page < 0 || page >= this.pages) assert(false, `page ${page} of ${this.pages}`);
    return this.#pages + page * PAGE_WORDS;
  }
}

/** A chain of pages that grows at its end. */
type Chain = { first: number; last: number /** In the last page. */; used: number; readonly pages: number[] };
type OpenChoice = { readonly record: number; readonly output: Chain; tokens: number; isCut: boolean };
type OpenCall = { readonly choices: readonly OpenChoice[]; readonly shared: Chain };

/** The frontend's side. */
export class RequestRecords {
  readonly #table: RecordTable;
  readonly #codec = new Codec();
  readonly #freeRecords: number[];
  readonly #freePages: number[];
  readonly #open = new Map<number, OpenCall>();

  constructor(table: RecordTable) {
    this.#table = table;
    const downTo0 = (count: number): number[] => Array.from({ length: count }, (_, index) => count - 1 - index);
    this.#freeRecords = downTo0(table.records);
    this.#freePages = downTo0(table.pages);
    // Closed: no reader takes a record that was never written.
    for (let record = 0; record < table.records; record++) Atomics.store(table.words, table.at(record, RECORD.version), 1);
  }

  /** Open calls that have records; records and pages that are taken. */
  get used(): { readonly calls: number; readonly records: number; readonly pages: number } {
    return {
      calls: this.#open.size,
      records: this.#table.records - this.#freeRecords.length,
      pages: this.#table.pages - this.#freePages.length,
    };
  }

  /** Records a call that begins, if there is room for it. `sequences`: all of its choices, of one prompt. */
  open(sequences: readonly Sequence[], life: number, deadline_at_ms: number): boolean {
    const [first] = sequences;
    if (first === undefined || sequences.length > this.#freeRecords.length) return false;
    const terms = this.#codec.pack({ ...first, prompt: [], output: [] });
    const shared = newChain();
    const hasRoom = this.#append(shared, terms.words, Math.ceil(terms.bytes / 4)) && this.#append(shared, first.prompt, first.prompt.length);
    if (!hasRoom) {
      this.#freePages.push(...shared.pages);
      return false;
    }
    const call = callOf(first.request);
    assert(!this.#open.has(call), `call ${call} is recorded already`);
    const choices = sequences.map((): OpenChoice => ({ record: this.#freeRecords.pop() as number, output: newChain(), tokens: 0, isCut: false }));
    const owner = packOwner({ job_executor: jobExecutorOf(first.request), life, attempt: attemptOf(first.request) });
    for (const [index, { record }] of choices.entries()) {
      const sequence = sequences[index] as Sequence;
      this.#write(record, {
        owner,
        call,
        choice: sequence.choice,
        prompt_in: (choices[0] as OpenChoice).record,
        prompt_tokens: sequence.prompt.length,
        terms_bytes: terms.bytes,
        terms_at: shared.first,
        output_at: NONE,
        output_tokens: 0,
        state: RECORD_STATE.open,
        deadline_at: Math.round(deadline_at_ms),
      });
    }
    // Only now: of a call whose first choice is read, the others can be.
    for (const { record } of choices) this.#bump(record);
    this.#open.set(call, { choices, shared });
    return true;
  }

  /** The caller gets this token of the choice. */
  append(call: number, choice: number, token: number): void {
    const known = this.#open.get(call)?.choices[choice];
    if (known === undefined || known.isCut) return;
    const { words } = this.#table;
    const isFirst = known.tokens === 0;
    if (!this.#append(known.output, [token], 1)) {
      known.isCut = true;
      this.#set(known.record, RECORD.state, RECORD_STATE.cut);
      return;
    }
    if (isFirst) words[this.#table.at(known.record, RECORD.output_at)] = known.output.first;
    this.#set(known.record, RECORD.output_tokens, ++known.tokens);
  }

  /** The choice has all that it gets. */
  finish(call: number, choice: number): void {
    const known = this.#open.get(call)?.choices[choice];
    if (known !== undefined) this.#set(known.record, RECORD.state, RECORD_STATE.finished);
  }

  /** The call has ended. */
  close(call: number): void {
    const known = this.#open.get(call);
    if (known === undefined) return;
    this.#open.delete(call);
    for (const { record, output } of known.choices) {
      this.#bump(record);
      this.#set(record, RECORD.owner, 0);
      this.#freeRecords.push(record);
      this.#freePages.push(...output.pages);
    }
    this.#freePages.push(...known.shared.pages);
  }

  #set(record: number, word: number, value: number): void {
    Atomics.store(this.#table.words, this.#table.at(record, word), value);
  }

  #bump(record: number): void {
    Atomics.add(this.#table.words, this.#table.at(record, RECORD.version), 1);
  }

  #write(record: number, values: Readonly<Record<Exclude<keyof typeof RECORD, 'version'>, number>>): void {
    for (const [name, value] of Object.entries(values)) this.#set(record, RECORD[name as keyof typeof RECORD], value);
  }

  /** False: no page is left; what was written of it does not count. */
  #append(chain: Chain, from: ArrayLike<number>, length: number): boolean {
    const { words } = this.#table;
    for (let at = 0; at < length; ) {
      if (chain.used === PAGE_DATA_WORDS && !this.#grow(chain)) return false;
      const page = this.#table.pageAt(chain.last);
      const count = Math.min(PAGE_DATA_WORDS - chain.used, length - at);
      for (let index = 0; index < count; index++) words[page + 1 + chain.used + index] = from[at + index] as number;
      chain.used += count;
      at += count;
    }
    return true;
  }

  #grow(chain: Chain): boolean {
    const page = this.#freePages.pop();
    if (page === undefined) return false;
    const { words } = this.#table;
    words[this.#table.pageAt(page)] = NONE;
    if (chain.first === NONE) chain.first = page;
    else words[this.#table.pageAt(chain.last)] = page;
    chain.last = page;
    chain.used = 0;
    chain.pages.push(page);
    return true;
  }
}

const newChain = (): Chain => ({ first: NONE, last: NONE, used: PAGE_DATA_WORDS, pages: [] });

/** Copies `length` words from the chain that begins with `page`, after the first `skip`. Null: the chain is too short, since it is another's by now. */
export function readChain(table: RecordTable, page: number, skip: number, length: number): Int32Array | null {
  const out = new Int32Array(length);
  let [next, left, done] = [page, skip, 0];
  // No chain is longer than all pages: one that is being written anew may lead in a circle.
  for (let pages = 0; done < length; pages++) {
    if (next < 0 || next >= table.pages || pages > table.pages) return null;
    const at = table.pageAt(next);
    const from = Math.min(left, PAGE_DATA_WORDS);
    left -= from;
    const count = Math.min(PAGE_DATA_WORDS - from, length - done);
    out.set(table.words.subarray(at + 1 + from, at + 1 + from + count), done);
    done += count;
    next = table.words[at] as number;
  }
  return out;
}
