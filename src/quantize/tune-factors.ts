/**
 * Smoothing factors, tuned one by one: each is halved or doubled, then moved by less, as long as that lowers what rounding is expected to lose. Rounding to whole
 * numbers of a scale loses scale² ÷ 12 on average, so with x′ = x ÷ s and w′ = w · s of each product
 *
 *   loss = Σ_t max_j x′_tj² · Σ_oj w′_oj²  +  Σ_o max_j w′_oj² · Σ_tj x′_tj²        activations rounded, weights rounded
 * @module
 */
import type { Matrix } from './matrix.ts';

/** Of what rounded weights lose, in squares, compensation leaves 0.26 to 0.34 in the shipped model's first layer. */
const WEIGHTS_SHARE = 0.3;
const SWEEPS_MAX = 12;
/** Less is not worth another sweep. */
const WORTH = 0.9999;

/** Channels that have the same factor, one after the other. */
export type Groups = readonly (readonly number[])[];

/** Rows that are rounded together: of activations or of an output's weights. Of each, the two largest groups' magnitudes are known, so that one may shrink. */
class Rounded {
  readonly #rows: number;
  /** By group, then row: the largest magnitude of its channels. */
  readonly #sizes: Float32Array;
  /** By group: the sum of squares. */
  readonly #squares: Float64Array;
  readonly #largest: Float32Array;
  readonly #second: Float32Array;
  readonly #owner: Int32Array;
  /** Sums of squares: of each row's largest, and of all. */
  maxima = 0;
  squares = 0;

  constructor({ values, rows, columns }: Matrix, factors: ArrayLike<number>, groups: Groups) {
    this.#rows = rows;
    this.#sizes = new Float32Array(groups.length * rows);
    this.#squares = new Float64Array(groups.length);
    for (const [group, members] of groups.entries())
      for (const column of members)
        for (let row = 0, at = group * rows; row < rows; row++, at++) {
          const size = Math.abs(values[row * columns + column] as number) * (factors[column] as number);
          if (size > (this.#sizes[at] as number)) this.#sizes[at] = size;
          this.#squares[group] = (this.#squares[group] as number) + size * size;
        }
    [this.#largest, this.#second, this.#owner] = [new Float32Array(rows), new Float32Array(rows), new Int32Array(rows)];
    for (const sum of this.#squares) this.squares += sum;
    for (let row = 0; row < rows; row++) {
      this.#look(row);
      this.maxima += (this.#largest[row] as number) ** 2;
    }
  }

  /** The two sums as they would be with this group times a factor. */
  scaled(group: number, factor: number): { readonly maxima: number; readonly squares: number } {
    const [rows, sizes, largest, second, owner] = [this.#rows, this.#sizes, this.#largest, this.#second, this.#owner];
    let { maxima } = this;
    for (let row = 0, at = group * rows; row < rows; row++, at++) {
      const own = (sizes[at] as number) * factor;
      const before = largest[row] as number;
      if (owner[row] === group) {
        const after = Math.max(own, second[row] as number);
        maxima += after * after - before * before;
      } else if (own > before) maxima += own * own - before * before;
    }
    return { maxima, squares: this.squares + (this.#squares[group] as number) * (factor * factor - 1) };
  }

  /** Makes it so. */
  scale(group: number, factor: number): void {
    ({ maxima: this.maxima, squares: this.squares } = this.scaled(group, factor));
    this.#squares[group] = (this.#squares[group] as number) * factor * factor;
    for (let row = 0, at = group * this.#rows; row < this.#rows; row++, at++) {
      const before = this.#sizes[at] as number;
      const own = Math.fround(before * factor);
      this.#sizes[at] = own;
      if (Math.max(before, own) >= (this.#second[row] as number)) this.#look(row);
    }
  }

  /** Finds a row's two largest. */
  #look(row: number): void {
    let [first, second, owner] = [-1, 0, 0];
    for (let at = row, group = 0; at < this.#sizes.length; at += this.#rows, group++) {
      const size = this.#sizes[at] as number;
      if (size > first) [second, first, owner] = [Math.max(first, 0), size, group];
      else if (size > second) second = size;
    }
    [this.#largest[row], this.#second[row], this.#owner[row]] = [Math.max(first, 0), second, owner];
  }
}

/** By 2, then by 2 to the ½, ¼ and ⅛: written down, since engines may round powers differently. */
const STEPS: readonly (readonly number[])[] = [
  [2, 0.5],
  [Math.SQRT2, Math.SQRT1_2, 1.189207115002721, 0.8408964152537145, 1.0905077326652577, 0.9170040432046712],
];

export function tuneFactors(products: readonly { readonly inputs: Matrix; readonly weights: Matrix }[], start: Float32Array, groups: Groups): Float32Array {
  const factors = start.slice();
  const inverse = factors.map((factor) => 1 / factor);
  const rounded = products.map(({ inputs, weights }) => ({ x: new Rounded(inputs, inverse, groups), w: new Rounded(weights, factors, groups) }));
  const lossOf = (x: Pick<Rounded, 'maxima' | 'squares'>, w: Pick<Rounded, 'maxima' | 'squares'>): number =>
    x.maxima * w.squares + WEIGHTS_SHARE * w.maxima * x.squares;
  const lossWith = (group: number, factor: number): number =>
    rounded.reduce((sum, { x, w }) => sum + lossOf(x.scaled(group, 1 / factor), w.scaled(group, factor)), 0);
  let loss = rounded.reduce((sum, { x, w }) => sum + lossOf(x, w), 0);
  for (const steps of STEPS)
    for (let sweep = 0, isMoving = true; isMoving && sweep < SWEEPS_MAX; sweep++) {
      isMoving = false;
      for (const [group, columns] of groups.entries())
        for (const factor of steps) {
          const tried = lossWith(group, factor);
          if (tried >= loss * WORTH) continue;
          loss = tried;
          for (const { x, w } of rounded) {
            x.scale(group, 1 / factor);
            w.scale(group, factor);
          }
          for (const column of columns) factors[column] = (factors[column] as number) * factor;
          isMoving = true;
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
