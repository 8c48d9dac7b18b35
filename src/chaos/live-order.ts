/** How a live run tells a worker what to suffer: words of the control page that belong to a thread that there is not. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import { THREADS_MAX } from '../fabric/control-page.ts';

/** `dies`: its thread ends with an error; `blocks`: it waits for what never comes; `spins`: it goes round for ever. The latter two read nothing, and no stop word. */
export const LIVE_KINDS = ['worker-dies', 'worker-blocks', 'worker-spins'] as const;
export type LiveKind = (typeof LIVE_KINDS)[number];

const NOBODY = THREADS_MAX - 2;

export class LiveOrder {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(space: AddressSpace) {
    this.#words = space.wordsOf(space.regions[0]?.base ?? 0);
    this.#at = space.control.stopWordOffset(NOBODY) / 4;
  }

  /** One at a time: the next when this one was taken. */
  give(worker: number, kind: LiveKind): void {
    this.#words[this.#at + 1] = LIVE_KINDS.indexOf(kind);
    Atomics.store(this.#words, this.#at, worker + 1);
  }

  get isTaken(): boolean {
    return Atomics.load(this.#words, this.#at) === 0;
  }

  /** Of the worker itself. */
  take(worker: number): LiveKind | null {
    if (Atomics.compareExchange(this.#words, this.#at, worker + 1, 0) !== worker + 1) return null;
    return LIVE_KINDS[this.#words[this.#at + 1] as number] as LiveKind;
  }
}
