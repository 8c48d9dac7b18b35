/**
 * Smoothing factors, tuned one by one: each is halved or doubled, then, where it may be any number, moved by less, as long as that lowers what rounding is expected to lose. Rounding to whole numbers of a scale loses
 * scale² ÷ 12 on average, so with x′ = x ÷ s and w′ = w · s of each product
 *
 *   loss = Σ_t max_j x′_tj² · Σ_oj w′_oj²  +  Σ_o max_j w′_oj² · Σ_tj x′_tj²        activations rounded, weights rounded
 * @module
 */
import type { Matrix } from './matrix.ts';

/** Compensation makes up for about half of what rounded weights lose. */
const WEIGHTS_SHARE = 0.5;
const SWEEPS_MAX = 12;

/** Rows that are rounded together: of activations or of an output's weights; the largest magnitude of each, where all lie. */
class Rounded {
  readonly #sizes: Float64Array;
  readonly #columns: number;
  readonly #rows: number;
  /** By column: the sum of squares. */
  readonly #squares: Float64Array;
  readonly #largest: Float64Array;
  maxima = 0;
  squares = 0;

  constructor({ values, rows, columns }: Matrix, factors: ArrayLike<number>) {
    this.#sizes = Float64Array.from(values, (value, at) => Math.abs(value) * (factors[at % columns] as number));
    this.#rows = rows;
    this.#columns = columns;
    this.#squares = new Float64Array(columns);
    this.#largest = new Float64Array(rows);
    for (let row = 0, at = 0; row < rows; row++)
      for (let column = 0; column < columns; column++, at++) {
        const size = this.#sizes[at] as number;
        this.#squares[column] = (this.#squares[column] as number) + size * size;
        this.#largest[row] = Math.max(this.#largest[row] as number, size);
      }
    for (const sum of this.#squares) this.squares += sum;
    for (const largest of this.#largest) this.maxima += largest * largest;
  }

  /** The same two sums as they are, or would be, with these columns times a factor. */
  scaled(columns: readonly number[], factor: number, isKept: boolean): { readonly maxima: number; readonly squares: number } {
    let { maxima, squares } = this;
    for (const column of columns) squares += (this.#squares[column] as number) * (factor * factor - 1);
    for (let row = 0; row < this.#rows; row++) {
      const before = this.#largest[row] as number;
      const largest = this.#largestOf(row, columns, factor, before);
      maxima += largest * largest - before * before;
      if (isKept) this.#largest[row] = largest;
    }
    if (isKept) {
      for (const column of columns) {
        this.#squares[column] = (this.#squares[column] as number) * factor * factor;
        for (let at = column; at < this.#sizes.length; at += this.#columns) this.#sizes[at] = (this.#sizes[at] as number) * factor;
      }
      [this.maxima, this.squares] = [maxima, squares];
    }
    return { maxima, squares };
  }

  #largestOf(row: number, columns: readonly number[], factor: number, before: number): number {
    const at = row * this.#columns;
    let own = 0;
    for (const column of columns) own = Math.max(own, this.#sizes[at + column] as number);
    if (own < before || factor >= 1) return Math.max(before, own * factor);
    // The largest shrinks: another may be the largest now.
    let largest = own * factor;
    for (let column = 0; column < this.#columns; column++) if (!columns.includes(column)) largest = Math.max(largest, this.#sizes[at + column] as number);
    return largest;
  }
}

const DOUBLING: readonly number[] = [2, 0.5];
/** Up and down by 2 to the ½, ¼ and ⅛: written down, since engines may round powers differently. */
const FINER: readonly number[] = [...[Math.SQRT2, Math.SQRT1_2, 1.189207115002721, 0.8408964152537145], ...[1.0905077326652577, 0.9170040432046712]];

/** `groups`: channels that have the same factor. `isFine`: else all are powers of two times what they begin with. */
export function tuneFactors(
  products: readonly { readonly inputs: Matrix; readonly weights: Matrix }[],
  start: Float32Array,
  groups: readonly (readonly number[])[],
  isFine: boolean,
): Float32Array {
  const factors = start.slice();
  const inverse = factors.map((factor) => 1 / factor);
  const rounded = products.map(({ inputs, weights }) => ({ x: new Rounded(inputs, inverse), w: new Rounded(weights, factors) }));
  const lossOf = (x: { maxima: number; squares: number }, w: { maxima: number; squares: number }): number =>
    x.maxima * w.squares + WEIGHTS_SHARE * w.maxima * x.squares;
  const lossWith = (columns: readonly number[], factor: number, isKept: boolean): number =>
    rounded.reduce((sum, { x, w }) => sum + lossOf(x.scaled(columns, 1 / factor, isKept), w.scaled(columns, factor, isKept)), 0);
  let loss = rounded.reduce((sum, { x, w }) => sum + lossOf(x, w), 0);
  for (const steps of isFine ? [DOUBLING, FINER] : [DOUBLING]) {
    for (let sweep = 0, isMoving = true; isMoving && sweep < SWEEPS_MAX; sweep++) {
      isMoving = false;
      for (const columns of groups)
        for (const factor of steps) {
          if (lossWith(columns, factor, false) >= loss * 0.9999) continue;
          loss = lossWith(columns, factor, true);
          for (const column of columns) factors[column] = (factors[column] as number) * factor;
          isMoving = true;
        }
    }
  }
  return factors;
}

/** Each channel by itself, or with those that it is tied to. */
export function groupsOf(columns: number, tied: Uint32Array | undefined): number[][] {
  const groups = Array.from({ length: columns }, (): number[] => []);
  for (let column = 0; column < columns; column++) groups[tied?.[column] ?? column]?.push(column);
  return groups.filter(({ length }) => length > 0);
}
