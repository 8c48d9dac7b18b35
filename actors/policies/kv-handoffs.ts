/**
 * KV that changes hands between DP groups (xDeepServe §5.1): what this one lends, if it prefills, and what it receives, if it decodes; and the
 * prefixes that it lends to other groups which prefill.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { Transfer } from '../../src/protocol/transfers.ts';
import { KvLending } from './kv-lending.ts';
import { KvReceiving } from './kv-receiving.ts';
import { KvRequests } from './kv-requests.ts';
import { PrefixLoans } from './prefix-loans.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningSequence } from './running-sequence.ts';
import type { WaitingLine } from './waiting-line.ts';

export class KvHandoffs {
  readonly lending: KvLending;
  readonly receiving: KvReceiving;
  readonly loans: PrefixLoans;
  readonly #requests = new KvRequests();

  /** `waiting`: those whose KV has to be computed here. */
  constructor(cache: RelationalTensorCache, waiting: WaitingLine<RunningSequence>, self: Address, keepsPrefixes: boolean) {
    this.loans = new PrefixLoans(cache, this.#requests, self);
    this.lending = new KvLending(cache, this.#requests, keepsPrefixes);
    this.receiving = new KvReceiving(cache, waiting, this.#requests);
  }

  get lent(): number {
    return this.lending.size;
  }

  get expected(): number {
    return this.receiving.expected;
  }

  get leases_expired(): number {
    return this.lending.leases_expired;
  }

  /** Blocks are held that will be free, or lead on, without a step of this group. */
  get isUnderWay(): boolean {
    return this.lending.isUnderWay || this.loans.size > 0 || this.receiving.isUnderWay;
  }

  /** Nobody wants it any more. Null: it is none of these; true: nothing of it is left; false: it is let go of when its transfer has ended. */
  giveUp(running: RunningSequence): boolean | null {
    return this.lending.giveUp(running) ? false : this.receiving.giveUp(running);
  }

  /** The memory failed in which all of this lies. */
  distrust(): void {
    this.receiving.distrust();
    this.lending.distrust();
    this.loans.distrust();
  }

  /** A transfer has ended: whose, if that one is over, and what to tell its task unless it was abandoned. */
  end(id: number, isThere: boolean): { readonly over: RunningSequence | null; readonly messages: readonly Commands['send'][] } {
    if (this.loans.has(id)) {
      this.loans.end(id, isThere);
      return { over: null, messages: [] };
    }
    if (this.lending.has(id)) return this.lending.end(id, isThere);
    return { over: this.receiving.end(id, isThere), messages: [] };
  }

  /** What the host is to do. */
  takeTransfers(): readonly Transfer[] {
    return this.#requests.take();
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { ...this.lending.toJSON(), ...this.receiving.toJSON(), ...this.#requests.toJSON(), loans: this.loans.toJSON() };
  }
}
