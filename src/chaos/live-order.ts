/**
 * How a live run tells a worker what to suffer, and hears what became of it: words of the control page that belong to a thread that there is not.
 *
 *   | order | kind | seed | guard | segment | word | words | bad … | whole … |
 *
 * `order`: n + 1, it stands for worker n; −n − 1, that one is about it; 0, it was carried out, or there is none.
 *
 * @module
 */
import { globalAddress, offsetOf, segmentOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { THREADS_MAX } from '../fabric/control-page.ts';
import { invariantBroken } from '../protocol/errors.ts';
import type { Damage } from './damage.ts';
import { GUARDS, type Guard, LIVE_KINDS, type WorkerKind } from './live-kinds.ts';

const NOBODY = THREADS_MAX - 2;
/** From the stop word on: a thread has 128 bytes, of which that is the second word. */
const WORD = { order: 0, kind: 1, seed: 2, guard: 3, segment: 4, word: 5, words: 6, bad: 7, whole: 15 } as const;
const DAMAGED_WORDS_MAX = WORD.whole - WORD.bad;

/** What a strike has done. `damage`: to memory. */
export type Effect = { readonly guard: Guard; readonly damage?: Damage };

export class LiveOrder {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(space: AddressSpace) {
    this.#words = space.wordsOf(space.regions[0]?.base ?? 0);
    this.#at = space.control.stopWordOffset(NOBODY) / 4;
  }

  /** One at a time: the next when this one was carried out or withdrawn. */
  give(worker: number, kind: WorkerKind, seed: number): void {
    this.#words[this.#at + WORD.kind] = LIVE_KINDS.indexOf(kind);
    this.#words[this.#at + WORD.seed] = seed;
    Atomics.store(this.#words, this.#at, worker + 1);
  }

  get isTaken(): boolean {
    return Atomics.load(this.#words, this.#at) === 0;
  }

  /** Null: it was not carried out. Its worker may be about it in this very moment: it is asked again then. */
  withdraw(): Effect | null | 'under way' {
    const order = Atomics.load(this.#words, this.#at);
    if (order < 0) return 'under way';
    if (order > 0 && Atomics.compareExchange(this.#words, this.#at, order, 0) === order) return null;
    return order > 0 ? this.withdraw() : this.#effect();
  }

  #effect(): Effect {
    const word = (index: number): number => this.#words[this.#at + index] as number;
    const guard = GUARDS[word(WORD.guard)] as Guard;
    const length = word(WORD.words);
    if (length === 0) return { guard };
    const list = (from: number): number[] => Array.from({ length }, (_, index) => word(from + index));
    return { guard, damage: { address: globalAddress(word(WORD.segment), (word(WORD.word) >>> 0) * 4), bad: list(WORD.bad), whole: list(WORD.whole) } };
  }

  /** Of the worker itself: what it is to suffer, if it is. */
  kindFor(worker: number): WorkerKind | null {
    return Atomics.load(this.#words, this.#at) === worker + 1 ? (LIVE_KINDS[this.#words[this.#at + WORD.kind] as number] as WorkerKind) : null;
  }

  /** The same: carries it out, if it can be now. True: it was. */
  carryOut(worker: number, strike: (seed: number) => Effect | null): boolean {
    const words = this.#words;
    if (Atomics.compareExchange(words, this.#at, worker + 1, -worker - 1) !== worker + 1) return false;
    const effect = strike(words[this.#at + WORD.seed] as number);
    if (effect !== null) this.#note(effect);
    Atomics.store(words, this.#at, effect === null ? worker + 1 : 0);
    return effect !== null;
  }

  #note({ guard, damage }: Effect): void {
    const { address = 0, bad = [], whole = [] } = damage ?? {};
    if (bad.length > DAMAGED_WORDS_MAX) invariantBroken(`${bad.length} words were damaged at once, and there is room for ${DAMAGED_WORDS_MAX}`);
    this.#words.set([GUARDS.indexOf(guard), segmentOf(address), offsetOf(address) / 4, bad.length], this.#at + WORD.guard);
    this.#words.set(bad, this.#at + WORD.bad);
    this.#words.set(whole, this.#at + WORD.whole);
  }
}
