/**
 * Who was unused the longest: lines with the oldest at their head, which anybody joins and leaves in the same time however long they are. A node stands in
 * one line of a set at most. Neighbours know each other by number, so that to leave is no way through the heap.
 * @module
 */
import { NO_NODE, type PrefixNode } from './prefix-nodes.ts';

/** Outside of any. */
export const NO_LINE = 0;

/** Of a row: the line, below zero for one who has stepped out of it, and the rows of its neighbours there. */
const LINE = 0;
const OLDER = 1;
const NEWER = 2;
const ROW = 4;

export class UsageOrder {
  readonly #lines: number;
  readonly #lengths: number[];
  /** A row for each line, at which its ring begins and ends, and behind them one for each node; a row is named by where it begins. */
  #words: Int32Array;

  /** Lines 1 to `lines`; `room`: for nodes of numbers below that, at first. */
  constructor(lines: number, room: number) {
    this.#lines = lines;
    this.#words = new Int32Array((1 + lines + room) * ROW);
    this.#lengths = Array.from({ length: 1 + lines }, () => 0);
    for (let line = 0; line <= lines; line++) this.#join(line * ROW, line * ROW);
  }

  length(line: number): number {
    return this.#lengths[line] as number;
  }

  /** `NO_NODE`: nobody stands there. */
  oldest(line: number): PrefixNode {
    const row = this.#words[line * ROW + NEWER] as number;
    return row === line * ROW ? NO_NODE : row / ROW - this.#lines;
  }

  /** Has it stand in that line, where it stays if it stands there: else as the one used last; `isCold`: as the one unused the longest. */
  place(node: PrefixNode, line: number, isCold: boolean): void {
    const row = (this.#lines + node) * ROW;
    if (row >= this.#words.length) this.#reach(row);
    const before = this.#words[row + LINE] as number;
    if (before === line) return;
    if (before > NO_LINE) this.#leave(row, before);
    this.#words[row + LINE] = line;
    if (line === NO_LINE) return;
    const end = line * ROW;
    if (isCold) this.#enter(row, line, end, this.#words[end + NEWER] as number);
    else this.#enter(row, line, this.#words[end + OLDER] as number, end);
  }

  /** It leaves its line for as long as it is used, which is how most come and go. */
  stepOut(node: PrefixNode): void {
    const row = (this.#lines + node) * ROW;
    const line = this.#words[row + LINE] ?? NO_LINE;
    if (line <= NO_LINE) return;
    this.#leave(row, line);
    this.#words[row + LINE] = -line;
  }

  /** It stands in that line again, as the one used last. False: it did not step out, or was placed since. */
  stepIn(node: PrefixNode): boolean {
    const row = (this.#lines + node) * ROW;
    const line = -(this.#words[row + LINE] ?? NO_LINE);
    if (line <= NO_LINE) return false;
    this.#words[row + LINE] = line;
    this.#enter(row, line, this.#words[line * ROW + OLDER] as number, line * ROW);
    return true;
  }

  #enter(row: number, line: number, older: number, newer: number): void {
    this.#join(older, row);
    this.#join(row, newer);
    this.#lengths[line] = this.length(line) + 1;
  }

  #leave(row: number, line: number): void {
    this.#join(this.#words[row + OLDER] as number, this.#words[row + NEWER] as number);
    this.#lengths[line] = this.length(line) - 1;
  }

  /** Makes two rows neighbours. */
  #join(older: number, newer: number): void {
    this.#words[older + NEWER] = newer;
    this.#words[newer + OLDER] = older;
  }

  #reach(row: number): void {
    const words = new Int32Array(Math.max(2 * this.#words.length, row + ROW));
    words.set(this.#words);
    this.#words = words;
  }
}
