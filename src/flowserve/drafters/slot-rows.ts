/**
 * What a second MTP layer has of the first (mtp-layout.ts): its row at a position needs what the first has left at the position before, which for the first row of
 * a step is one of the step before. So of each slot the last row is kept.
 *
 *   step          n                  n + 1
 *   first layer   a ─▶ b ─▶ [c]      d ─▶ [e]
 *   second layer  ?    a    b        [c]  d        behind nothing that is kept it has no first row
 *
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { assert } from '../../protocol/errors.ts';
import type { Span } from '../forward/arithmetic.ts';
import type { StepLayout } from '../layouts/step-layout.ts';

export class SlotRows {
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  readonly #at: StepLayout['scratch'];
  readonly #kept: number;
  readonly #row_bytes: number;
  /** By slot: the position whose row is kept; missing: none. */
  readonly #positions: (number | undefined)[] = [];

  constructor({ base, row_bytes, scratch }: StepLayout, slotRows: number, space: AddressSpace) {
    this.#space = space;
    this.#words = space.wordsOf(base);
    this.#at = scratch;
    this.#kept = slotRows;
    this.#row_bytes = row_bytes;
  }

  /** What is kept of the slot belongs to none of its sequence's rows. */
  forget(slot: number): void {
    this.#positions[slot] = undefined;
  }

  /** Row `to` is the one that is kept. */
  take(slot: number, to: number): void {
    this.#copy(this.#row(to), this.#keptOf(slot), 1);
  }

  /**
   * The first layer's rows of a sequence become what the second is given, from row `to` on, with tokens and positions: each row that of the position before, the
   * first one the row that was kept, and the last one is kept. Gives how many there are.
   */
  pass({ slot, row, rows }: Span, to: number): number {
    assert(to <= row && rows > 0, 'rows move up');
    const position = this.#words[this.#index(this.#at.positions, row)] as number;
    const isKept = this.#positions[slot] === position - 1;
    const skipped = isKept ? 0 : 1;
    this.#copy(this.#aside, this.#row(row + rows - 1), 1);
    this.#copy(this.#row(to + 1 - skipped), this.#row(row), rows - 1);
    if (isKept) this.take(slot, to);
    this.#copy(this.#keptOf(slot), this.#aside, 1);
    this.#positions[slot] = position + rows - 1;
    for (const table of [this.#at.tokenIds, this.#at.positions]) {
      const from = this.#index(table, row + skipped);
      this.#words.copyWithin(this.#index(table, to), from, from + rows - skipped);
    }
    return rows - skipped;
  }

  #row(row: number): number {
    return this.#at.x + row * this.#row_bytes;
  }

  get #aside(): number {
    return this.#kept;
  }

  #keptOf(slot: number): number {
    return this.#kept + (1 + slot) * this.#row_bytes;
  }

  #index(table: number, row: number): number {
    return (offsetOf(table) >>> 2) + row;
  }

  #copy(to: number, from: number, rows: number): void {
    if (rows > 0 && to !== from) this.#space.copy(to, from, rows * this.#row_bytes);
  }
}
