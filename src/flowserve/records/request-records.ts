/**
 * Opens the records of requests: the control thread's side (record-table.ts).
 * @module
 */
import { fromErrorRecord } from '../../protocol/errors.ts';
import type { Sequence } from '../../protocol/messages.ts';
import { ATTEMPTS_MAX, attemptOf, callOf, jobExecutorOf, requestId } from '../../protocol/request-ids.ts';
import { Codec } from '../../protocol/wire.ts';
import { FREE, NONE, newChain, pagesFor, RecordPages } from './record-pages.ts';
import { type Owner, PAGE_WORDS, packOwner, RECORD, RECORD_STATE, RECORD_WORDS, type RecordTable, unpackOwner } from './record-table.ts';
import { movedTooOften, notKept } from './record-taking.ts';

export const recordsBytes = (records: number, tokens: number): number => (records * RECORD_WORDS + pagesFor(tokens) * PAGE_WORDS) * 4;

export class RequestRecords {
  readonly #table: RecordTable;
  readonly #pages: RecordPages;
  readonly #codec = new Codec();
  /** Where the next free record is looked for. */
  #next = 0;

  /** Nobody has used the table before. */
  constructor(table: RecordTable) {
    this.#table = table;
    this.#pages = new RecordPages(table, 0);
    for (let record = 0; record < table.records; record++) {
      // Closed: no reader takes a record that was never written.
      table.store(record, RECORD.version, 1);
      table.store(record, RECORD.call, FREE);
    }
    for (let page = 0; page < table.pages; page++) Atomics.store(table.words, table.pageAt(page), FREE);
  }

  /** Open calls that have records; records and pages that are taken. */
  get used(): { readonly calls: number; readonly records: number; readonly pages: number } {
    const { words, records, pages } = this.#table;
    const taken = Array.from({ length: records }, (_, record) => record).filter((record) => this.#table.load(record, RECORD.call) !== FREE);
    let pagesTaken = 0;
    for (let page = 0; page < pages; page++) if (Atomics.load(words, this.#table.pageAt(page)) !== FREE) pagesTaken++;
    return { calls: taken.filter((record) => this.#table.load(record, RECORD.prompt_in) === record).length, records: taken.length, pages: pagesTaken };
  }

  /** Records a call that begins: where each choice is recorded, or nothing, where there is no room for all. `sequences`: all of its choices, of one prompt. */
  open(sequences: readonly Sequence[], life: number, deadline_at_ms: number): readonly number[] {
    const [first] = sequences;
    const records = this.#takeRecords(sequences.length);
    const [prompt_in] = records;
    if (first === undefined || prompt_in === undefined) return [];
    const terms = this.#codec.pack({ ...first, prompt: [], output: [] });
    const shared = newChain();
    const hasRoom = this.#pages.append(shared, terms.words, Math.ceil(terms.bytes / 4)) && this.#pages.append(shared, first.prompt, first.prompt.length);
    if (!hasRoom) {
      this.#pages.free(shared.first);
      return [];
    }
    const owner = packOwner({ job_executor: jobExecutorOf(first.request), life, attempt: attemptOf(first.request) });
    for (const [index, record] of records.entries()) {
      const sequence = sequences[index] as Sequence;
      this.#write(record, {
        owner,
        call: callOf(first.request),
        choice: sequence.choice,
        prompt_in,
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
    for (const record of records) this.#table.bump(record);
    return records;
  }

  /**
   * An open call that has ended goes on: its records are this owner's from here on, at the next attempt.
   * @returns the id under which it goes on
   * @throws `worker_failed` where it is not recorded, or was moved too often
   */
  reopen(call: number, { job_executor, life }: Omit<Owner, 'attempt'>): number {
    const table = this.#table;
    const records = Array.from({ length: table.records }, (_, record) => record).filter((record) => table.load(record, RECORD.call) === call);
    const attempt = Math.max(-1, ...records.map((record) => unpackOwner(table.load(record, RECORD.owner)).attempt)) + 1;
    if (attempt === 0) throw fromErrorRecord(notKept('worker'));
    if (attempt >= ATTEMPTS_MAX) throw fromErrorRecord(movedTooOften());
    const own = packOwner({ job_executor, life, attempt });
    // Whoever takes a lost job executor's requests over may have taken this one a moment ago: what it computes is the same, or comes from an earlier owner.
    for (const record of records) table.store(record, RECORD.owner, own);
    return requestId(job_executor, attempt, call);
  }

  /** Free ones, which nobody but this takes; none, where there are not so many. */
  #takeRecords(count: number): number[] {
    const { records } = this.#table;
    const free: number[] = [];
    for (let tried = 0; tried < records && free.length < count; tried++) {
      if (this.#table.load(this.#next, RECORD.call) === FREE) free.push(this.#next);
      this.#next = (this.#next + 1) % records;
    }
    return free.length === count ? free : [];
  }

  #write(record: number, values: Readonly<Record<Exclude<keyof typeof RECORD, 'version'>, number>>): void {
    for (const [name, value] of Object.entries(values)) this.#table.store(record, RECORD[name as keyof typeof RECORD], value);
  }
}
