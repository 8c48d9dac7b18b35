/**
 * Who waits, in the order of their turns: each comes, is first, and is gone from anywhere in the time of a logarithm, however many wait.
 *
 * A turn is fixed when its holder first comes: `rank`, then `arrival`. So whoever gives way stands where it stood before, and nobody's turn ever gets later.
 * @module
 */

export type Turn = { readonly rank: number; readonly arrival: number };

/** Whether `a` comes before `b`. */
export const isBefore = (a: Turn, b: Turn): boolean => a.rank < b.rank || (a.rank === b.rank && a.arrival < b.arrival);

export class WaitingLine<Waiter extends Turn> {
  /** A binary heap: nobody comes before its parent, entry ⌊(i − 1) / 2⌋. */
  #heap: Waiter[] = [];
  /** They stand in the heap still, and are passed over. */
  readonly #gone = new Set<Waiter>();

  get length(): number {
    return this.#heap.length - this.#gone.size;
  }

  /** Those who wait, and those who left and are not let go of yet. */
  get kept(): number {
    return this.#heap.length;
  }

  get first(): Waiter | undefined {
    for (let next = this.#heap[0]; next !== undefined && this.#gone.delete(next); next = this.#heap[0]) this.#takeFirst();
    return this.#heap[0];
  }

  push(waiter: Waiter): void {
    // It left, and is back before it was let go of.
    if (this.#gone.delete(waiter)) return;
    this.#heap.push(waiter);
    this.#rise(this.#heap.length - 1);
  }

  shift(): void {
    if (this.first !== undefined) this.#takeFirst();
  }

  /** `waiter` is in the line. */
  remove(waiter: Waiter): void {
    this.#gone.add(waiter);
    // Those who left are let go of before they are more than those who wait.
    if (this.#gone.size > this.length) this.#compact();
  }

  *[Symbol.iterator](): Generator<Waiter, void, undefined> {
    yield* this.#heap.filter((waiter) => !this.#gone.has(waiter)).sort((a, b) => (isBefore(a, b) ? -1 : 1));
  }

  #compact(): void {
    this.#heap = [...this];
    this.#gone.clear();
  }

  #takeFirst(): void {
    const last = this.#heap.pop() as Waiter;
    if (this.#heap.length === 0) return;
    this.#heap[0] = last;
    this.#sink();
  }

  #rise(from: number): void {
    const heap = this.#heap;
    const waiter = heap[from] as Waiter;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above] as Waiter;
      if (!isBefore(waiter, parent)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = waiter;
  }

  #sink(): void {
    const heap = this.#heap;
    const waiter = heap[0] as Waiter;
    let at = 0;
    for (let below = 1; below < heap.length; below = 2 * at + 1) {
      const right = below + 1;
      const next = right < heap.length && isBefore(heap[right] as Waiter, heap[below] as Waiter) ? right : below;
      if (!isBefore(heap[next] as Waiter, waiter)) break;
      heap[at] = heap[next] as Waiter;
      at = next;
    }
    heap[at] = waiter;
  }
}
