/**
 * What is still to happen on a virtual clock, by (time, order of entry): a binary heap.
 * @module
 */

export type Scheduled = { readonly time_ns: number; readonly order: number };

const isBefore = (a: Scheduled, b: Scheduled): boolean => a.time_ns < b.time_ns || (a.time_ns === b.time_ns && a.order < b.order);

export class EventQueue<Event extends Scheduled> {
  /** Each parent before its two children: of index i, those are 2i + 1 and 2i + 2. */
  readonly #heap: Event[] = [];

  get size(): number {
    return this.#heap.length;
  }

  push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = heap[parent] as Event;
      if (!isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}
