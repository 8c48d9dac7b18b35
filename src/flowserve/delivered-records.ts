/**
 * Keeps in a call's records what its caller has of it, and closes them: the side of the caller's thread (record-table.ts).
 * @module
 */
import { type Chain, FREE, newChain, RecordPages, readChain } from './record-pages.ts';
import { RECORD, RECORD_STATE, type RecordTable } from './record-table.ts';

type DeliveredChoice = { readonly record: number; readonly output: Chain; tokens: number; hasRoom: boolean };

export class DeliveredRecords {
  readonly #table: RecordTable;
  readonly #pages: RecordPages;

  constructor(table: RecordTable) {
    this.#table = table;
    // Prompts are written from the other end on.
    this.#pages = new RecordPages(table, table.pages >>> 1);
  }

  /** `records`: by choice; none: there was no room, and nothing is kept. */
  of(records: readonly number[]): DeliveredCall {
    return new DeliveredCall(this.#table, this.#pages, records);
  }
}

export class DeliveredCall {
  readonly #table: RecordTable;
  readonly #pages: RecordPages;
  readonly #choices: readonly DeliveredChoice[];

  constructor(table: RecordTable, pages: RecordPages, records: readonly number[]) {
    this.#table = table;
    this.#pages = pages;
    this.#choices = records.map((record) => ({ record, output: newChain(), tokens: 0, hasRoom: true }));
  }

  /** The caller gets this token of the choice; it is its last. */
  append(choice: number, token: number, isLast: boolean): void {
    const known = this.#choices[choice];
    if (known === undefined) return;
    const { record, output } = known;
    // First: whoever sees all of its tokens sees that there are no more.
    if (isLast) this.#table.store(record, RECORD.state, RECORD_STATE.finished);
    known.hasRoom &&= this.#pages.append(output, [token], 1);
    if (!known.hasRoom) return;
    if (known.tokens === 0) this.#table.store(record, RECORD.output_at, output.first);
    this.#table.store(record, RECORD.output_tokens, ++known.tokens);
  }

  /** What its caller has there; −1: there was no room to keep it. */
  tokenAt(choice: number, index: number): number {
    const known = this.#choices[choice];
    return known === undefined || index >= known.tokens ? -1 : (readChain(this.#table, known.output.first, index, 1)?.[0] ?? -1);
  }

  /** The caller hears no more of the call. */
  close(): void {
    const [first] = this.#choices;
    if (first === undefined) return;
    const shared = this.#table.load(first.record, RECORD.terms_at);
    for (const { record } of this.#choices) {
      this.#table.bump(record);
      this.#table.store(record, RECORD.owner, 0);
    }
    for (const { output } of this.#choices) this.#pages.free(output.first);
    this.#pages.free(shared);
    // Last: from here on they are another's.
    for (const { record } of this.#choices) this.#table.store(record, RECORD.call, FREE);
  }
}
