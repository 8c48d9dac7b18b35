/**
 * The tokens of many blocks, side by side in memory. Lists of their own lie wherever the heap put them: to compare one with a prompt is three or four misses
 * of the core's cache, and of its page table, in a large tree; here it is one.
 * @module
 */

/** Blocks of a page: pages come one by one as the tree grows, and none is copied for that. */
const PAGE_BLOCKS = 1_024;

export class BlockTokens {
  readonly #block_size: number;
  readonly #pages: Int32Array[] = [];
  readonly #free: number[] = [];
  /** Places that were ever taken. */
  #taken = 0;

  constructor(block_size: number) {
    this.#block_size = block_size;
  }

  /** Where the tokens from position `at` on are kept until `remove`. */
  add(tokens: readonly number[], at: number): number {
    const place = this.#free.pop() ?? this.#taken++;
    if (place === this.#pages.length * PAGE_BLOCKS) this.#pages.push(new Int32Array(PAGE_BLOCKS * this.#block_size));
    const page = this.#pageOf(place);
    const first = (place % PAGE_BLOCKS) * this.#block_size;
    for (let index = 0; index < this.#block_size; index++) page[first + index] = tokens[at + index] as number;
    return place;
  }

  remove(place: number): void {
    this.#free.push(place);
  }

  /** Whether those at a place are those from position `at` on. */
  equal(place: number, tokens: readonly number[], at: number): boolean {
    const page = this.#pageOf(place);
    const first = (place % PAGE_BLOCKS) * this.#block_size;
    for (let index = 0; index < this.#block_size; index++) if (page[first + index] !== tokens[at + index]) return false;
    return true;
  }

  #pageOf(place: number): Int32Array {
    return this.#pages[Math.floor(place / PAGE_BLOCKS)] as Int32Array;
  }
}
