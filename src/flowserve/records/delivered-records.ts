/**
 * Keeps in a call's records what its caller has of it, and closes them: the side of the caller's thread (record-table.ts). It alone outlives the pod's other
 * threads: when those are lost, it takes the records of open calls to the memory of their successors (moved-records.ts).
 * @module
 */
import { moveRecords } from './moved-records.ts';
import { type Chain, FREE, newChain, RecordPages, readChain } from './record-pages.ts';
import { RECORD, RECORD_STATE, type RecordTable } from './record-table.ts';

type DeliveredChoice = { readonly record: number; readonly output: Chain; tokens: number; hasRoom: boolean };
/** Where records lie now. */
type Place = { table: RecordTable; pages: RecordPages };

// Prompts are written from the other end on.
const placeIn = (table: RecordTable): Place => ({ table, pages: new RecordPages(table, table.pages >>> 1) });

export class DeliveredRecords {
  readonly #place: Place;
  /** By first record, of calls that are open, the records. */
  readonly #open = new Map<number, readonly number[]>();

  constructor(table: RecordTable) {
    this.#place = placeIn(table);
  }

  /** `records`: by choice; none: there was no room, and nothing is kept. */
  of(records: readonly number[]): DeliveredCall {
    const [first] = records;
    if (first === undefined) return new DeliveredCall(this.#place, records, () => {});
    this.#open.set(first, records);
    return new DeliveredCall(this.#place, records, () => this.#open.delete(first));
  }

  /** Keeps those of open calls where no other thread is, until they move on: the table is to be cleared. */
  setAside(): void {
    this.moveTo(this.#place.table.apart());
  }

  /** To a table of the same size, in which nobody has written yet: open calls have their records there, in the same places. */
  moveTo(table: RecordTable): void {
    moveRecords(this.#place.table, table, [...this.#open.values()].flat());
    Object.assign(this.#place, placeIn(table));
  }
}

export class DeliveredCall {
  readonly #place: Place;
  readonly #onClosed: () => void;
  readonly #choices: readonly DeliveredChoice[];

  constructor(place: Place, records: readonly number[], onClosed: () => void) {
    this.#place = place;
    this.#onClosed = onClosed;
    this.#choices = records.map((record) => ({ record, output: newChain(), tokens: 0, hasRoom: true }));
  }

  /** The caller gets this token of the choice; it is its last. */
  append(choice: number, token: number, isLast: boolean): void {
    const known = this.#choices[choice];
    if (known === undefined) return;
    const { table, pages } = this.#place;
    const { record, output } = known;
    // First: whoever sees all of its tokens sees that there are no more.
    if (isLast) table.store(record, RECORD.state, RECORD_STATE.finished);
    known.hasRoom &&= pages.append(output, [token], 1);
    if (!known.hasRoom) return;
    if (known.tokens === 0) table.store(record, RECORD.output_at, output.first);
    table.store(record, RECORD.output_tokens, ++known.tokens);
  }

  /** What its caller has there; −1: there was no room to keep it. */
  tokenAt(choice: number, index: number): number {
    const known = this.#choices[choice];
    return known === undefined || index >= known.tokens ? -1 : (readChain(this.#place.table, known.output.first, index, 1)?.[0] ?? -1);
  }

  /** The caller hears no more of the call. */
  close(): void {
    const [first] = this.#choices;
    if (first === undefined) return;
    const { table, pages } = this.#place;
    const shared = table.load(first.record, RECORD.terms_at);
    for (const { record } of this.#choices) {
      table.bump(record);
      table.store(record, RECORD.owner, 0);
    }
    for (const { output } of this.#choices) pages.free(output.first);
    pages.free(shared);
    this.#onClosed();
    // Last: from here on they are another's.
    for (const { record } of this.#choices) table.store(record, RECORD.call, FREE);
  }
}
