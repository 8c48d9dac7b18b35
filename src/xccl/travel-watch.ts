/**
 * Who looks on while rows travel between dies: told of them where they are left, when they are summed (row-sums.ts) and nobody else knows of them yet. So whatever it
 * does to them there is what whoever takes them finds. Where nobody looks on, it is a question a dispatch.
 * @module
 */
import type { Block } from './row-sums.ts';

/** `rows`: in the memory of the die. True: it has done something to them. */
export type OnLeft = (die: number, rows: readonly Block[]) => boolean;

export class TravelWatch {
  readonly #watchers = new Set<OnLeft>();

  get isOn(): boolean {
    return this.#watchers.size > 0;
  }

  left(die: number, rows: readonly Block[]): void {
    // One alone does something to the same rows: a second might undo it.
    for (const onLeft of this.#watchers) if (onLeft(die, rows)) return;
  }

  /** Until the function is called that it returns. */
  add(onLeft: OnLeft): () => void {
    this.#watchers.add(onLeft);
    return () => void this.#watchers.delete(onLeft);
  }
}
