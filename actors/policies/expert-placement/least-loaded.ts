/**
 * Who of many has the least, where one changes at a time: a tournament, in which each match names its winner.
 *
 *                 1: the least of all          Leaves stand behind the matches, as many as a power of two;
 *            2            3                    those not needed are infinite, and never win.
 *          4   5        6   7
 *
 * Of equals the first wins: it always stands to the left.
 * @module
 */
export class LeastLoaded {
  /** By index; written freely before `rebuild`, after it by `set` alone. */
  readonly loads: Float64Array;
  readonly #winners: Int32Array;
  readonly #leaves: number;

  constructor(count: number) {
    let leaves = 1;
    while (leaves < count) leaves *= 2;
    this.loads = new Float64Array(leaves).fill(Number.POSITIVE_INFINITY, count);
    this.#winners = Int32Array.from({ length: 2 * leaves }, (_, match) => match - leaves);
    this.#leaves = leaves;
  }

  rebuild(): void {
    for (let match = this.#leaves - 1; match >= 1; match--) this.#play(match);
  }

  /** Its index. */
  get least(): number {
    return this.#winners[1] as number;
  }

  set(index: number, load: number): void {
    this.loads[index] = load;
    for (let match = (this.#leaves + index) >>> 1; match >= 1; match >>>= 1) this.#play(match);
  }

  #play(match: number): void {
    const left = this.#winners[2 * match] as number;
    const right = this.#winners[2 * match + 1] as number;
    this.#winners[match] = (this.loads[right] as number) < (this.loads[left] as number) ? right : left;
  }
}
