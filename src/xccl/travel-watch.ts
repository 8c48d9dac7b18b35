/**
 * Who looks on while rows travel between dies: told of them where they are left, when they are summed (row-sums.ts) and nobody else knows of them yet. So whatever it
 * does to them there is what whoever takes them finds. Where nobody looks on, it is a question a dispatch.
 * @module
 */
import type { Block } from './row-sums.ts';

/** `rows`: in the memory of the die. */
export type OnLeft = (die: number, rows: readonly Block[]) => void;

export class TravelWatch {
  readonly #watchers = new Set<OnLeft>();

  get isOn(): boolean {
    return this.#watchers.size > 0;
  }

  left(die: number, rows: readonly Block[]): void {
    for (const onLeft of [...this.#watchers]) onLeft(die, rows);
  }

  /** Until the function is called that it returns. */
  add(onLeft: OnLeft): () => void {
    this.#watchers.add(onLeft);
    return () => void this.#watchers.delete(onLeft);
  }
}
