/**
 * The serial log of one expert map: entries one after the other, at most one of them open, and what became of all there were.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { assert } from '../../src/protocol/errors.ts';
import {
  type CopyWay,
  MAP_CHANGES,
  type MapCause,
  type MapChange,
  type MapEntry,
  type MapOutcome,
  NOTHING_COPIED,
  type WeightsCopied,
} from '../../src/protocol/map-log.ts';

/** How many ended so. */
export type MapCount = { readonly change: MapChange; readonly outcome: MapOutcome; readonly cause: MapCause; readonly count: number };

/** Entries that are kept, the latest. */
const ENTRIES_MAX = 32;

const weightOf = (change: MapChange): number => MAP_CHANGES.indexOf(change);

/** Rebalances that change nothing come with every period, and would leave the log nothing else to tell: of some in a row, for the same cause, the latest stands. */
const isRepeated = (last: MapEntry | undefined, { change, outcome, cause, epoch }: MapEntry): boolean =>
  change === 'rebalance' && outcome === 'unchanged' && last?.change === change && last.outcome === outcome && last.cause === cause && last.epoch === epoch;

export class MapLog {
  readonly #entries: MapEntry[] = [];
  readonly #counts = new Map<string, MapCount>();
  #open: MapEntry | null = null;
  /** The open one is the rest of another, which is counted. */
  #isReturn = false;
  #copied: WeightsCopied = NOTHING_COPIED;
  #next = 1;

  /** The latest last; at most one is open, and that is the last one. What numbers leave out are rebalances that changed nothing either. */
  get entries(): readonly MapEntry[] {
    return this.#open === null ? this.#entries : [...this.#entries, this.#open];
  }

  get open(): MapEntry | null {
    return this.#open;
  }

  /** Of all that have ended. */
  get counts(): readonly MapCount[] {
    return [...this.#counts.values()];
  }

  /** For all entries that there were. */
  get copied(): WeightsCopied {
    return this.#copied;
  }

  /** The entry is the open one: whoever writes it is heard. */
  isOpen(entry: number): boolean {
    return this.#open?.entry === entry;
  }

  /** Nothing is open that weighs as much. */
  mayBegin(change: MapChange): boolean {
    return this.#open === null || weightOf(this.#open.change) < weightOf(change);
  }

  begin(change: MapChange, writer: Address, epoch: number, isReturn = false, reason = ''): number {
    assert(this.#open === null, `entry ${this.#open?.entry} of the map's log is open, and ${writer} began another`);
    const entry = this.#next++;
    this.#isReturn = isReturn;
    this.#open = { entry, change, writer, outcome: null, cause: null, reason, epoch, copied: NOTHING_COPIED };
    return entry;
  }

  end(outcome: MapOutcome, cause: MapCause, reason: string, epoch: number): void {
    assert(this.#open, 'no entry of the map log is open');
    const ended = { ...this.#open, outcome, cause, reason, epoch };
    if (isRepeated(this.#entries.at(-1), ended)) this.#entries.pop();
    this.#entries.push(ended);
    if (this.#entries.length > ENTRIES_MAX) this.#entries.shift();
    if (!this.#isReturn) this.count(this.#open.change, outcome, cause);
    this.#open = null;
  }

  /** A slot has its weights, for the open entry. */
  noteCopied(way: CopyWay, bytes: number): void {
    this.#noteCopied((copied) => ({ ...copied, [way]: { slots: copied[way].slots + 1, bytes: copied[way].bytes + bytes } }));
  }

  /** A slot's broadcast did not come. */
  noteInstead(why: string): void {
    this.#noteCopied((copied) => ({ ...copied, instead: copied.instead + 1, why: copied.why ?? why }));
  }

  #noteCopied(after: (copied: WeightsCopied) => WeightsCopied): void {
    this.#copied = after(this.#copied);
    if (this.#open !== null) this.#open = { ...this.#open, copied: after(this.#open.copied) };
  }

  /** One that came to no entry. */
  count(change: MapChange, outcome: MapOutcome, cause: MapCause): void {
    const key = `${change} ${outcome} ${cause}`;
    this.#counts.set(key, { change, outcome, cause, count: (this.#counts.get(key)?.count ?? 0) + 1 });
  }

  toJSON(): object {
    return { entries: this.entries, counts: this.counts, copied: this.copied };
  }
}
