/**
 * What a DP group asks of its host for KV that changes hands, each transfer under a number of its own.
 * @module
 */
import type { Transfer } from '../../src/protocol/transfers.ts';

export class KvRequests {
  #last = 0;
  #asked: Transfer[] = [];

  /** Another transfer's number. */
  begin(): number {
    return ++this.#last;
  }

  ask(transfer: Transfer): void {
    this.#asked.push(transfer);
  }

  /** What the host is to do. */
  take(): readonly Transfer[] {
    const asked = this.#asked;
    this.#asked = [];
    return asked;
  }

  /** All of its state between two messages. */
  toJSON(): { readonly last: number } {
    return { last: this.#last };
  }
}
