/**
 * Prefixes that a DP group lends to others which would have to compute them: what they asked for and is here in HBM, held while it is pulled.
 *
 *   asked for ─▶ lent ─▶ offered ─▶ (pulled, or nobody will, or the lease is over) ─▶ kept as before
 *
 * It promises nothing: what has gone, moves, or is more than may be lent at once is refused, and computed there.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { prefixLent } from '../../src/protocol/constructors.ts';
import type { Commands, KvOffer } from '../../src/protocol/messages.ts';
import type { PrefixMessage } from '../../src/protocol/prefix-sharing.ts';
import { cacheSpace, type Holding } from './cache-holding.ts';
import type { KvRequests } from './kv-requests.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';

/** Of one group at once: each pins blocks, and has a place in the table of offers. */
export const PREFIX_LOANS_MAX = 8;

/** Whoever asked pulls at once: one that does not is lost, and the blocks are not kept for it as long as those of a handoff. */
export const PREFIX_LEASE_MS = 5_000;

type Wanted = Extract<PrefixMessage, { readonly type: 'PREFIX_WANTED' }>;
type Loan = { readonly to: Address; readonly task: Address; readonly holding: Holding; readonly blocks: number; isEnding: boolean };

export class PrefixLoans {
  readonly #cache: RelationalTensorCache;
  readonly #requests: KvRequests;
  readonly #self: Address;
  readonly #loans = new Map<number, Loan>();
  /** Blocks that others have pulled. */
  blocks_lent = 0;

  constructor(cache: RelationalTensorCache, requests: KvRequests, self: Address) {
    this.#cache = cache;
    this.#requests = requests;
    this.#self = self;
  }

  get size(): number {
    return this.#loans.size;
  }

  /** The transfer is one of these. */
  has(id: number): boolean {
    return this.#loans.has(id);
  }

  /** Lends what follows the blocks that are known there; or says that there is nothing. */
  lend({ from, task, cache_salt, tokens, known }: Wanted): readonly Commands['send'][] {
    if (this.#loans.size >= PREFIX_LOANS_MAX) return [this.#answer(from, task, null)];
    const holding = this.#cache.matchByPrefixToken(cacheSpace(cache_salt), tokens, tokens.length);
    if (holding.known <= known) {
      this.#cache.free(holding);
      return [this.#answer(from, task, null)];
    }
    const id = this.#requests.begin();
    const blocks = holding.blocks.slice(known / this.#cache.block_size);
    this.#loans.set(id, { to: from, task, holding, blocks: blocks.length, isEnding: false });
    this.#requests.ask({ kind: 'offer', id, blocks, step: 0 });
    return [];
  }

  /** It can be pulled. */
  offered(id: number, offer: KvOffer): readonly Commands['send'][] {
    const loan = this.#loans.get(id);
    return loan === undefined || loan.isEnding ? [] : [this.#answer(loan.to, loan.task, offer)];
  }

  unwant(task: Address): void {
    for (const [id, loan] of this.#loans) if (loan.task === task) this.#end(id, loan);
  }

  /** The time is over for which it was lent. */
  expire(id: number): void {
    const loan = this.#loans.get(id);
    if (loan !== undefined) this.#end(id, loan);
  }

  /** The memory failed in which they lie. */
  distrust(): void {
    for (const [id, loan] of this.#loans) this.#end(id, loan);
  }

  /** Nobody reads it any more. */
  end(id: number, wasPulled: boolean): void {
    const { holding, blocks } = this.#loans.get(id) as Loan;
    this.#loans.delete(id);
    if (wasPulled) this.blocks_lent += blocks;
    this.#cache.free(holding);
  }

  #end(id: number, loan: Loan): void {
    if (loan.isEnding) return;
    loan.isEnding = true;
    this.#requests.ask({ kind: 'withdraw', id });
  }

  #answer(to: Address, task: Address, offer: KvOffer | null): Commands['send'] {
    return { to, message: prefixLent(this.#self, task, offer) };
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return Object.fromEntries([...this.#loans].map(([id, { to, task, blocks, isEnding }]) => [id, { to, task, blocks, isEnding }]));
  }
}
