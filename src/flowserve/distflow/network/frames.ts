/**
 * What travels between two network cards: requests one way, answers the other, in the same order, so an answer needs no name.
 *
 *   hello     key | source | target | puller | bytes      then so many bytes       who pulls from whom: executors, and the puller's thread; by which numerics
 *   request   op | bytes | segment | offset | a | b     then, of a gather, bytes / 4 indices
 *   answer    status | value | bytes                    then the bytes; before any other, of a source that has other numerics: refused, and its own
 *
 * All are words of the machine's own order; both ends are this machine.
 * @module
 */

import { assert } from '../../../protocol/errors.ts';
import type { Random } from '../../../runtime/clock.ts';

/**
 * Drawn with each card, and known to those that it lets in, as an RDMA key is: any program of this machine gets to its port, and the verbs reach all of the pod's
 * memory.
 */
export type NetworkKey = Int32Array;
export const KEY_WORDS = 4;
export const HELLO_WORDS = KEY_WORDS + 4;
/** Behind the key. */
export const HELLO = { source: KEY_WORDS, target: KEY_WORDS + 1, puller: KEY_WORDS + 2, bytes: KEY_WORDS + 3 } as const;
/** Of the text of numerics, which is filled up to words with spaces. */
export const NUMERICS_WORDS_MAX = 64;
export const REQUEST_WORDS = 6;
export const REQUEST = { op: 0, bytes: 1, segment: 2, offset: 3, a: 4, b: 5 } as const;
export const ANSWER_WORDS = 3;
export const ANSWER = { status: 0, value: 1, bytes: 2 } as const;

export const networkKey = (random: Random): NetworkKey => Int32Array.from({ length: KEY_WORDS }, () => random.below(2 ** 32) | 0);

export const bytesOf = (words: Int32Array): Uint8Array => new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

export function numericsBytes(numerics: string): Uint8Array {
  const text = new TextEncoder().encode(numerics);
  const bytes = new Uint8Array(Math.ceil(text.length / 4) * 4).fill(0x20);
  assert(bytes.length <= NUMERICS_WORDS_MAX * 4, `numerics of ${bytes.length} bytes`);
  bytes.set(text);
  return bytes;
}

export const numericsIn = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.slice()).trimEnd();

/** Gathers words from bytes that come in any pieces. */
export class WordsIn {
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  #filled = 0;

  constructor(count: number) {
    this.words = new Int32Array(count);
    this.#bytes = new Uint8Array(this.words.buffer);
  }

  /** Takes what it needs from `at` on; how much it took. */
  take(bytes: Uint8Array, at: number, wanted = this.#bytes.length): number {
    const taken = Math.min(wanted - this.#filled, bytes.length - at);
    this.#bytes.set(bytes.subarray(at, at + taken), this.#filled);
    this.#filled += taken;
    return taken;
  }

  isFull(wanted = this.#bytes.length): boolean {
    return this.#filled >= wanted;
  }

  clear(): void {
    this.#filled = 0;
  }
}
