/**
 * Who was unused the longest: a line with the oldest at its head, which anybody joins and leaves in the same time however long it is.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

/** One's place in a line, or outside of any. */
export type Standing<Item> = {
  readonly item: Item;
  order: UsageOrder<Item> | null;
  older: Standing<Item> | null;
  newer: Standing<Item> | null;
};

export const standingOf = <Item>(item: Item): Standing<Item> => ({ item, order: null, older: null, newer: null });

export class UsageOrder<Item> {
  #oldest: Standing<Item> | null = null;
  #newest: Standing<Item> | null = null;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  get oldest(): Item | null {
    return this.#oldest === null ? null : this.#oldest.item;
  }

  /** As the one used last. */
  join(standing: Standing<Item>): void {
    assert(standing.order === null, 'who joins a line stands in none');
    standing.order = this;
    standing.older = this.#newest;
    if (this.#newest === null) this.#oldest = standing;
    else this.#newest.newer = standing;
    this.#newest = standing;
    this.#length++;
  }

  /** As the one unused the longest. */
  joinFirst(standing: Standing<Item>): void {
    assert(standing.order === null, 'who joins a line stands in none');
    standing.order = this;
    standing.newer = this.#oldest;
    if (this.#oldest === null) this.#newest = standing;
    else this.#oldest.older = standing;
    this.#oldest = standing;
    this.#length++;
  }

  leave(standing: Standing<Item>): void {
    assert(standing.order === this, 'who leaves a line stands in it');
    const { older, newer } = standing;
    if (older === null) this.#oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    standing.order = null;
    standing.older = null;
    standing.newer = null;
    this.#length--;
  }
}
