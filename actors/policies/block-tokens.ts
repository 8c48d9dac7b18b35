/**
 * The tokens of the tree's nodes, side by side in memory. Lists of their own lie wherever the heap put them: to compare one with a prompt is three or four misses
 * of the core's cache, and of its page table, in a large tree; here it is one.
 * @module
 */
import type { PrefixNode } from './prefix-nodes.ts';

/** Blocks of a page: pages come one by one as the tree grows, and none is copied for that. A power of two. */
const PAGE_BITS = 10;
const PAGE_BLOCKS = 1 << PAGE_BITS;

export class BlockTokens {
  readonly #block_size: number;
  readonly #pages: Int32Array[] = [];

  constructor(block_size: number) {
    this.#block_size = block_size;
  }

  /** The node's tokens are those from position `at` on. */
  put(node: PrefixNode, tokens: readonly number[], at: number): void {
    while (node >= this.#pages.length * PAGE_BLOCKS) this.#pages.push(new Int32Array(PAGE_BLOCKS * this.#block_size));
    const page = this.#pageOf(node);
    const first = (node & (PAGE_BLOCKS - 1)) * this.#block_size;
    for (let index = 0; index < this.#block_size; index++) page[first + index] = tokens[at + index] as number;
  }

  addTo(list: number[], node: PrefixNode): void {
    const page = this.#pageOf(node);
    const first = (node & (PAGE_BLOCKS - 1)) * this.#block_size;
    for (let index = 0; index < this.#block_size; index++) list.push(page[first + index] as number);
  }

  /** Whether they are those from position `at` on. */
  equal(node: PrefixNode, tokens: readonly number[], at: number): boolean {
    const page = this.#pageOf(node);
    const first = (node & (PAGE_BLOCKS - 1)) * this.#block_size;
    for (let index = 0; index < this.#block_size; index++) if (page[first + index] !== tokens[at + index]) return false;
    return true;
  }

  #pageOf(node: PrefixNode): Int32Array {
    return this.#pages[node >>> PAGE_BITS] as Int32Array;
  }
}
