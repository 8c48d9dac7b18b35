/**
 * Bytes of a peer that were lent to this die: to be read where they are while the lease lasts.
 * @module
 */
import { DONE, failed, type Poll } from './operation.ts';
import type { Terms } from './terms.ts';

export class Lease {
  readonly address: number;
  readonly bytes: number;
  /** They could not be used in place, since the lender's region lies in another segment: this is a copy, and the lender has its memory back. */
  readonly copied: boolean;
  readonly #terms: Terms;
  readonly #giveBack: (() => void) | null;
  #end: Poll | null = null;

  constructor(address: number, bytes: number, terms: Terms, giveBack: (() => void) | null) {
    this.address = address;
    this.bytes = bytes;
    this.copied = giveBack === null;
    this.#terms = terms;
    this.#giveBack = giveBack;
  }

  get isReleased(): boolean {
    return this.#end !== null;
  }

  /**
   * Gives the memory back. Failed: the lender was given up or the domain destroyed while the lease lasted, so what was read through it does not count.
   * Answers the same again.
   */
  release(): Poll {
    if (this.#end === null) {
      const broken = this.copied ? null : this.#terms.broken();
      this.#end = broken === null ? DONE : failed(broken);
      this.#giveBack?.();
    }
    return this.#end;
  }
}
