/**
 * Dispatches of one layer from several NPUs, computed together on an expert NPU: rows of the same expert are one call of it, whoever sent them, and each sender is
 * answered with its own (xDeepServe §5.3). An expert reads its weights once for all rows of a call. Kernels give a row the same bits in whichever batch it is, so
 * nobody can tell who else was served.
 *
 *   dispatch 1   | slot 2: rows | slot 5: rows |            ─▶ slot 2 of (1)      ─▶ reply 1 | …
 *   dispatch 2                  | slot 5: rows | shared: …  ─▶ slot 5 of (1, 2)   ─▶ reply 1, reply 2 | …
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { Arrived, TokenDispatch } from '../../xccl/exchange.ts';
import type { ExpertArithmetic } from '../forward/arithmetic.ts';
import type { DispatchedRows } from '../forward/narrow-rows.ts';
import { EXPERT_MASK, SLOT_SHIFT } from './expert-slots.ts';
import type { ExpertTimes } from './expert-times.ts';

/** How far one dispatch is computed. Offsets in bytes of its segment and of the expert NPU's. */
type Cursor = {
  table: Int32Array;
  word: number;
  /** Segments left, the one at hand included. */
  segments: number;
  pairRows: number;
  rowsAddress: number;
  reply: number;
  /** Rows of the answer: all, those that are there, and those that its room is for yet. */
  all: number;
  answered: number;
  pairs: number;
  /** Of the segment at hand; 0: not among those that are computed now. */
  rows: number;
};

/** After the last segment. */
const NONE = 0x7fff_ffff;

export class JoinedBatches {
  readonly #forward: ExpertArithmetic;
  readonly #space: AddressSpace;
  readonly #rows: DispatchedRows;
  readonly #times: ExpertTimes;
  readonly #computed: number;
  readonly #cursors: Cursor[] = [];
  /** Since it was made: calls of an expert, and those whose rows came from more than one dispatch. */
  calls = 0;
  joined = 0;

  /** `computed`: room for as many rows as one call has at most, as those that are gathered have. */
  constructor(forward: ExpertArithmetic, space: AddressSpace, rows: DispatchedRows, times: ExpertTimes, computed: number) {
    this.#forward = forward;
    this.#space = space;
    this.#rows = rows;
    this.#times = times;
    this.#computed = computed;
  }

  /** All of one layer. @throws when one of them is not what it was when it was received, or a kernel fails */
  compute(batch: readonly (Arrived & TokenDispatch)[]): void {
    const layer = batch[0]?.layer ?? 0;
    for (const [index, dispatch] of batch.entries()) this.#begin(index, dispatch);
    let began_us = this.#times.begin();
    for (;;) {
      let key = NONE;
      for (let index = 0; index < batch.length; index++) key = Math.min(key, this.#keyAt(index));
      if (key === NONE) return;
      const rows = this.#computeSlot(layer, key, batch.length);
      if (began_us >= 0) began_us = this.#times.add(layer, key & EXPERT_MASK, rows, began_us);
    }
  }

  #begin(index: number, { segmentsAddress, segments, pairRowsAddress, rowsAddress, replyOffset, pairs }: Arrived & TokenDispatch): void {
    this.#cursors[index] = {
      table: this.#space.wordsOf(segmentsAddress),
      word: offsetOf(segmentsAddress) >>> 2,
      segments,
      pairRows: offsetOf(pairRowsAddress),
      rowsAddress,
      reply: offsetOf(this.#forward.layout.areas.reply) + replyOffset,
      ...{ all: pairs, answered: 0, pairs, rows: 0 },
    };
  }

  /** A slot and its expert. */
  #keyAt(index: number): number {
    const { table, word, segments } = this.#cursors[index] as Cursor;
    return segments === 0 ? NONE : (table[word] as number);
  }

  /** All rows of one slot, in calls of as many as there is room for. Returns how many there were. */
  #computeSlot(layer: number, key: number, dispatches: number): number {
    const { at, layout } = this.#forward;
    let [first, gathered, all] = [0, 0, 0];
    for (let index = 0; index < dispatches; index++) {
      const cursor = this.#cursors[index] as Cursor;
      cursor.rows = this.#keyAt(index) === key ? this.#take(cursor) : 0;
      if (gathered + cursor.rows > layout.rows_max) {
        this.#call(layer, key >>> SLOT_SHIFT, first, index, gathered);
        [first, gathered] = [index, 0];
      }
      this.#gather(cursor, at.gathered + gathered * layout.row_bytes);
      gathered += cursor.rows;
      all += cursor.rows;
    }
    this.#call(layer, key >>> SLOT_SHIFT, first, dispatches, gathered);
    return all;
  }

  /** Rows of the segment at hand, whose room in the answer is there. */
  #take(cursor: Cursor): number {
    const rows = cursor.table[cursor.word + 1] as number;
    cursor.pairs -= rows;
    // Whoever asked may have given the step up and be writing the next one's tables here.
    if (rows < 0 || rows > this.#forward.layout.rows_max || cursor.pairs < 0)
      invariantBroken(`NPU ${this.#forward.layout.npu} was asked for more than it has room for`);
    cursor.word += 2;
    cursor.segments--;
    return rows;
  }

  #gather(cursor: Cursor, to: number): void {
    const { rows, rowsAddress, table, pairRows } = cursor;
    this.#rows.gather(to, rowsAddress, table, pairRows, rows, this.#rows.formats.there);
    cursor.pairRows += rows * 4;
  }

  /** Computes what was gathered for the dispatches from `first` up to `end`, and gives each its rows. */
  #call(layer: number, slot: number, first: number, end: number, rows: number): void {
    if (rows === 0) return;
    const { at, layout } = this.#forward;
    let senders = 0;
    for (let index = first; index < end; index++) if ((this.#cursors[index] as Cursor).rows > 0) senders++;
    const isNarrow = this.#rows.formats.back === 'int8';
    const isInPlace = senders === 1 && !isNarrow;
    this.calls++;
    if (senders > 1) this.joined++;
    if (!isInPlace) {
      this.#forward.expert(layer, slot, offsetOf(this.#computed), at.gathered, rows);
    }
    const base = layout.base - offsetOf(layout.base);
    for (let index = first, from = offsetOf(this.#computed); index < end; index++) {
      const cursor = this.#cursors[index] as Cursor;
      if (cursor.rows === 0) continue;
      const bytes = cursor.rows * layout.row_bytes;
      const reply = cursor.reply + cursor.answered * layout.row_bytes;
      if (isInPlace) this.#forward.expert(layer, slot, reply, at.gathered, rows);
      else if (isNarrow) this.#rows.leave(cursor.reply, cursor.all, cursor.answered, from, cursor.rows);
      else this.#space.copy(base + reply, base + from, bytes);
      from += bytes;
      cursor.answered += cursor.rows;
    }
  }
}
