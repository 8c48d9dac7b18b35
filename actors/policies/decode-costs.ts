/**
 * What steps that only decode take, by their rows: a line through what was seen of each number of rows. A machine that does something else now and then shall not
 * change it much, nor what was long ago: of each number of rows a value follows what is measured by small steps, up as far as down, so it is near the median.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

/** By so much of a value one step may change it; the first ones by more. */
const STEP = 0.03;
/** What is left of a value's weight after the next step. */
const KEPT = 0.99;
/** Before two numbers of rows were seen: a step of one row as if so much of it were the row's. */
const FIRST_ROW_SHARE = 0.5;
/** What a row takes is seen in steps of different numbers of rows, which differ by 5 % of themselves; what is assumed of it at first, by half of it: the ratio's square. */
const DOUBT = 0.01;
/** The first step of a number of rows may be held up, or captured: more than so many times what is expected of it is not believed. */
const FIRST_TIMES_MAX = 1.5;
/** As long as so many were seen, a shorter one counts whole. */
const FIRST_STEPS = 3;
/** Less is forgotten altogether. */
const WEIGHT_MIN = 0.05;
/** So many steps wait at most until somebody asks for the line: entered all at once they take a fraction of what each takes between two others. */
const UNSEEN_MAX = 16;

type Seen = { us: number; weight: number };
/** Microseconds of a step without rows, and of each row. */
type Line = { readonly base_us: number; readonly row_us: number };

export class DecodeCosts {
  readonly #seen = new Map<number, Seen>();
  /** Through what was seen; null: more was seen since. Each sequence of a step asks for it. */
  #line: Line | null = null;

  /** Steps that are not among those: the rows of each, and what it took. */
  readonly #unseen: number[] = [];

  /** A step of so many rows took so long, with what went by before it could begin. */
  add(rows: number, us: number): void {
    assert(rows > 0, 'a step has rows');
    this.#unseen.push(rows, us);
    if (this.#unseen.length === 2 * UNSEEN_MAX) this.#settle();
  }

  #settle(): void {
    for (let at = 0; at < this.#unseen.length; at += 2) this.#see(this.#unseen[at] as number, this.#unseen[at + 1] as number);
    this.#unseen.length = 0;
  }

  #see(rows: number, us: number): void {
    const seen = this.#seen.get(rows);
    // Only the first of a number of rows is held against what was seen of others.
    const expected_us = seen === undefined ? this.#expected_us(rows) : us;
    this.#line = null;
    for (const [other, one] of this.#seen) {
      // A step that was held up, and seen but once, shows beside another: none takes less for more rows, nor more for each of them.
      const most = us * Math.max(1, other / rows);
      if (one.weight <= 1 && one.us > FIRST_TIMES_MAX * most) one.us = most;
      one.weight *= KEPT;
      if (one.weight < WEIGHT_MIN && one !== seen) this.#seen.delete(other);
    }
    if (seen === undefined) {
      this.#seen.set(rows, { us: Math.min(us, FIRST_TIMES_MAX * expected_us), weight: 1 });
      return;
    }
    seen.weight++;
    const most = seen.us * Math.max(STEP, 1 / seen.weight);
    const least = seen.weight <= FIRST_STEPS ? seen.us : most;
    seen.us += Math.min(most, Math.max(-least, us - seen.us));
  }

  /** By what was seen of others. */
  #expected_us(rows: number): number {
    if (this.#seen.size === 0) return Infinity;
    const { base_us, row_us } = this.#fitted();
    return base_us + row_us * rows;
  }

  /** None was seen. */
  get isEmpty(): boolean {
    this.#settle();
    return this.#seen.size === 0;
  }

  /** Rows of more numbers than one were seen: what a row takes is no guess. */
  get isKnown(): boolean {
    this.#settle();
    return this.#seen.size > 1;
  }

  /** 0 and 0: none was seen. */
  get line(): Line {
    this.#settle();
    this.#line ??= this.#fitted();
    return this.#line;
  }

  #fitted(): Line {
    let [weights, rows, us, squares, products] = [0, 0, 0, 0, 0];
    for (const [at, seen] of this.#seen) {
      weights += seen.weight;
      rows += seen.weight * at;
      us += seen.weight * seen.us;
      squares += seen.weight * at * at;
      products += seen.weight * at * seen.us;
    }
    if (weights === 0) return { base_us: 0, row_us: 0 };
    const [mean, mean_us] = [rows / weights, us / weights];
    const variance = squares / weights - mean * mean;
    const first_us = (mean_us * FIRST_ROW_SHARE) / (FIRST_ROW_SHARE * mean + (1 - FIRST_ROW_SHARE));
    const doubt = (DOUBT * mean * mean) / weights;
    const row_us = (products / weights - mean * mean_us + doubt * first_us) / (variance + doubt);
    // No step gets cheaper by more rows, nor is a row dearer than a step by itself.
    const bounded_us = Math.min(Math.max(row_us, 0), mean_us / mean);
    return { base_us: mean_us - bounded_us * mean, row_us: bounded_us };
  }

  toJSON(): object {
    this.#settle();
    return Object.fromEntries([...this.#seen].map(([rows, { us, weight }]) => [rows, { us, weight }]));
  }
}
