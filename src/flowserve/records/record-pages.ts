/**
 * Pages of request records: chains of words that grow at their end. Two threads take pages, one for prompts and one for outputs, and one gives them back; a page
 * is taken by compare-and-swap of its first word, so neither needs to know what the other has.
 * @module
 */
import { PAGE_WORDS, type RecordTable } from './record-table.ts';

const PAGE_DATA_WORDS = PAGE_WORDS - 1;
/** In place of a page's number: no page follows; nobody has it. */
export const NONE = -1;
export const FREE = -2;

export const pagesFor = (words: number): number => Math.ceil(words / PAGE_DATA_WORDS);

export type Chain = { first: number; last: number /** In the last page. */; used: number };
export const newChain = (): Chain => ({ first: NONE, last: NONE, used: PAGE_DATA_WORDS });

export class RecordPages {
  readonly #table: RecordTable;
  /** Where the next free page is looked for. */
  #next: number;

  constructor(table: RecordTable, next: number) {
    this.#table = table;
    this.#next = next;
  }

  /** False: no page is left; what was written of it does not count. */
  append(chain: Chain, from: ArrayLike<number>, length: number): boolean {
    const { words } = this.#table;
    for (let at = 0; at < length; ) {
      if (chain.used === PAGE_DATA_WORDS && !this.#grow(chain)) return false;
      const page = this.#table.pageAt(chain.last);
      const count = Math.min(PAGE_DATA_WORDS - chain.used, length - at);
      for (let index = 0; index < count; index++) words[page + 1 + chain.used + index] = from[at + index] as number;
      chain.used += count;
      at += count;
    }
    return true;
  }

  /** Gives back the chain that begins with `page`; none of its pages is read after. */
  free(page: number): void {
    const { words } = this.#table;
    for (let next = page; next >= 0; ) {
      const at = this.#table.pageAt(next);
      next = words[at] as number;
      Atomics.store(words, at, FREE);
    }
  }

  #grow(chain: Chain): boolean {
    const page = this.#take();
    if (page === NONE) return false;
    if (chain.first === NONE) chain.first = page;
    else this.#table.words[this.#table.pageAt(chain.last)] = page;
    chain.last = page;
    chain.used = 0;
    return true;
  }

  #take(): number {
    const { words, pages } = this.#table;
    for (let tried = 0; tried < pages; tried++) {
      const page = this.#next;
      this.#next = (page + 1) % pages;
      const at = this.#table.pageAt(page);
      if (words[at] === FREE && Atomics.compareExchange(words, at, FREE, NONE) === FREE) return page;
    }
    return NONE;
  }
}

/** Copies `length` words from the chain that begins with `page`, after the first `skip`. Null: the chain is too short, since it is another's by now. */
export function readChain(table: RecordTable, page: number, skip: number, length: number): Int32Array | null {
  const out = new Int32Array(length);
  let [next, left, done] = [page, skip, 0];
  // No chain is longer than all pages: one that is being written anew may lead in a circle.
  for (let pages = 0; done < length; pages++) {
    if (next < 0 || next >= table.pages || pages > table.pages) return null;
    const at = table.pageAt(next);
    const from = Math.min(left, PAGE_DATA_WORDS);
    left -= from;
    const count = Math.min(PAGE_DATA_WORDS - from, length - done);
    out.set(table.words.subarray(at + 1 + from, at + 1 + from + count), done);
    done += count;
    next = table.words[at] as number;
  }
  return out;
}
