/**
 * Sequences whose cached prefix is on its way to them (sched-enqueue of DeepServe §4.2): matched, weighed, fetched in the background, ready.
 *
 *   waits ─▶ matched ─▶ in HBM, or not worth fetching ───────────────────────────▶ may run
 *                 ├─▶ in DRAM, or a tail to copy ─▶ set aside while it comes ─▶ waits, with its blocks ─▶ may run
 *                 └─▶ at another DP group ─▶ set aside while that is asked, and while it comes (prefix-wants.ts)
 *
 * Whoever is set aside keeps its turn and keeps nobody waiting. It is fetched for once: should its blocks be taken from it before it runs, it takes what it
 * then finds, so that it is not overtaken again and again.
 * @module
 */

import type { Address } from '../../src/protocol/address.ts';
import { assert } from '../../src/protocol/errors.ts';
import type { KvOffer } from '../../src/protocol/messages.ts';
import type { Transfer } from '../../src/protocol/transfers.ts';
import { type CacheCosts, isWorthFetching, isWorthSwapping } from './cache-costs.ts';
import { cacheSpace, type Holding } from './cache-holding.ts';
import { goOnFrom, keepable, reachOf, startFrom } from './foresight.ts';
import type { RememberedNode } from './prefix-nodes.ts';
import { PrefixWants } from './prefix-wants.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningBatch } from './running-batch.ts';
import { noHolding, type RunningSequence } from './running-sequence.ts';
import type { WaitingLine } from './waiting-line.ts';

/** So many fetch at once; more wait in line. */
const ASIDE_MAX = 64;

export type ArrivalLimits = {
  readonly has_prefix_cache: boolean;
  readonly dram_blocks: number;
  readonly cache_costs: CacheCosts | null;
  readonly shares_prefixes: boolean;
};

export class CacheArrivals {
  readonly wants: PrefixWants;
  readonly #cache: RelationalTensorCache;
  readonly #waiting: WaitingLine<RunningSequence>;
  readonly #hasPrefixCache: boolean;
  /** Null: there is nothing to fetch from. */
  readonly #costs: CacheCosts | null;
  readonly #hasDram: boolean;
  /** By the transfer that they wait for. */
  readonly #aside = new Map<number, RunningSequence[]>();
  /** Who waits with blocks that were brought for it. */
  readonly #ready = new Set<RunningSequence>();
  #length = 0;
  #transfers: Transfer[] = [];
  /** What those had whose blocks were taken from them while this step was planned, so far as it was known to others. */
  #leftBehind: (readonly RememberedNode[])[] = [];
  /** Hits that would have taken longer to fetch than to compute. */
  hits_refused = 0;

  /** `waiting`: where those go who have been set aside. */
  constructor(
    cache: RelationalTensorCache,
    { has_prefix_cache, dram_blocks, cache_costs, shares_prefixes }: ArrivalLimits,
    waiting: WaitingLine<RunningSequence>,
    self: Address,
  ) {
    this.#cache = cache;
    this.#waiting = waiting;
    this.wants = new PrefixWants(self, cache.block_size, has_prefix_cache && shares_prefixes ? cache_costs : null);
    this.#hasPrefixCache = has_prefix_cache;
    this.#costs = cache_costs;
    this.#hasDram = dram_blocks > 0;
  }

  /** Sequences that are set aside. */
  get length(): number {
    return this.#length;
  }

  /** It waits in line. */
  arrive(running: RunningSequence): void {
    this.wants.arrive(running);
    this.#waiting.push(running);
  }

  /** Keeps a prompt's prefix for those who will name the context. */
  keepContext(context: string, cache_salt: string, tokens: readonly number[]): void {
    if (this.#hasPrefixCache) this.#cache.createContext(context, cacheSpace(cache_salt), tokens);
  }

  /** What is to be copied since this was asked last. */
  takeTransfers(): readonly Transfer[] {
    if (this.#transfers.length === 0) return this.#transfers;
    const transfers = this.#transfers;
    this.#transfers = [];
    return transfers;
  }

  /**
   * Gives the first who waits what is known of its prefix, and says how many more of its tokens there is room for. `full`: for none; 0: others compute what it
   * needs; `aside`: it has been set aside until more has come.
   */
  begin(next: RunningSequence, budget: number, running: RunningBatch): number | 'aside' | 'full' {
    const readsCache = this.#readsCache(next);
    const holding = readsCache ? this.#holdingFor(next) : noHolding(next.sequence);
    if (holding === 'aside' || holding === 'full') return holding;
    const { known } = holding;
    // At least one token is computed: what it yields is not kept.
    const from = startFrom(next, known);
    const count = Math.min(next.tokens.length - from, budget);
    const missing = Math.max(0, this.#cache.blocksFor(reachOf(next, from + count)) - holding.blocks.length);
    while (!this.#cache.canAllocate(missing) && this.revoke()) {
      // Who comes later waits without blocks.
    }
    const hasRoom = this.#cache.canAllocate(missing);
    if (!hasRoom || (readsCache && this.#isUnderWay(next, known, running))) {
      this.#cache.free(holding);
      return hasRoom ? 0 : 'full';
    }
    next.holding = holding;
    goOnFrom(next, known);
    next.hole = -1;
    if (next.cached < 0) {
      next.cached = known;
      if (readsCache) this.#cache.positions_queried += next.sequence.prompt.length;
      this.#cache.positions_hit += known;
    }
    return count;
  }

  /** Whoever asks for the log-probabilities of its prompt needs all of it computed. */
  #readsCache({ sequence }: RunningSequence): boolean {
    return this.#hasPrefixCache && sequence.sampling.prompt_logprobs < 0;
  }

  /**
   * Whether a sequence before this one computes more of the same prefix right now: choices of one prompt, or a burst of requests that begin alike. Waiting for
   * it costs two steps at most, since who computes a prompt takes all of the budget until its last chunk.
   */
  #isUnderWay(next: RunningSequence, known: number, running: RunningBatch): boolean {
    const { block_size } = this.#cache;
    return running.computesPrefixOf(next, (Math.floor(known / block_size) + 1) * block_size);
  }

  /** `full`: there is no room to bring what it could begin with, or too much is being brought. */
  #holdingFor(next: RunningSequence): Holding | 'aside' | 'full' {
    let holding = this.#seek(next);
    while (holding === 'full' && this.revoke()) holding = this.#seek(next);
    return holding;
  }

  /** What a step has computed of a sequence, from position `start` on, can be used by others. */
  publish(running: RunningSequence, start: number): void {
    if (!this.#hasPrefixCache || running.isDegraded) return;
    const { holding, tokens, sequence } = running;
    const computed = keepable(running);
    this.#cache.publish(holding, tokens, computed);
    const { length } = sequence.prompt;
    if (start < length && computed >= length) this.#cache.shareTail(holding, tokens, sequence.request, length);
  }

  /** A transfer is over. Who waited for it waits in line again. */
  ended(id: number, isDone: boolean): void {
    if (this.#cache.transfers.isPopulate(id)) {
      if (isDone) this.wants.hits++;
      else this.wants.missed++;
    }
    if (isDone) this.#cache.transfers.done(id);
    else this.#cache.transfers.fail(id);
    const waiters = this.#aside.get(id) ?? [];
    this.#aside.delete(id);
    for (const waiter of waiters) {
      if (waiter.holding.blocks.length > 0) this.#ready.add(waiter);
      this.#goBack(waiter);
    }
  }

  /** The answer of a group that was asked for a prefix. `mayPull`: else what it lends is declined. */
  lent(holder: Address, task: Address, offer: KvOffer | null, mayPull: boolean): void {
    const asked = this.wants.answered(task);
    const pulls = asked !== null && offer !== null && mayPull && this.#pull(asked.running, asked.known, offer);
    if (pulls) return;
    if (offer !== null) this.wants.decline(holder, task);
    if (asked === null) return;
    this.wants.missed++;
    this.#goBack(asked.running);
  }

  /** A sequence has waited long enough for an answer. */
  overdue(task: Address): void {
    const asked = this.wants.answered(task);
    if (asked === null) return;
    this.wants.missed++;
    this.#goBack(asked.running);
  }

  /** Into the blocks behind those that it was asked for, if it is they that follow what is known now, and there is room. */
  #pull(next: RunningSequence, known: number, offer: KvOffer): boolean {
    const holding = this.#withoutTail(this.#match(next));
    const follows = holding.known === known && holding.swapped.length === 0 && holding.awaited === 0;
    const tokens = next.tokens.slice(0, known + offer.blocks.length * this.#cache.block_size);
    // Its generations lie beside what is lent.
    const transfer = follows ? this.#cache.populate(holding, { tokens, addresses: offer.blocks, generations: offer.blocks.map(() => 0) }) : null;
    if (transfer === null) {
      this.#cache.free(holding);
      return false;
    }
    assert(transfer.to.blocks.length === offer.blocks.length, 'what follows a prefix that is the longest known is not known');
    this.#transfers.push({ kind: 'pull', id: transfer.id, offer, blocks: transfer.to.blocks });
    next.holding = holding;
    next.wasFetched = true;
    this.#aside.set(transfer.id, [next]);
    return true;
  }

  #goBack(waiter: RunningSequence): void {
    waiter.isAside = false;
    this.#length--;
    this.#waiting.push(waiter);
  }

  /** It waits no more, aside or with blocks that came for it. True: it was set aside. */
  leave(running: RunningSequence): boolean {
    this.wants.leave(running);
    this.#letGo(running);
    if (!running.isAside) return false;
    running.isAside = false;
    this.#length--;
    for (const [id, waiters] of this.#aside) {
      const at = waiters.indexOf(running);
      if (at < 0) continue;
      waiters.splice(at, 1);
      if (waiters.length === 0) this.#aside.delete(id);
    }
    return true;
  }

  /** Takes blocks from one who only waits with them. False: nobody does. */
  revoke(): boolean {
    for (const running of this.#ready) {
      this.#letGo(running);
      return true;
    }
    return false;
  }

  /** All of it was lost: who waits has nothing, and who is set aside waits until its transfer has ended, which brings nothing. */
  drop(): void {
    while (this.revoke()) {
      // One after the other.
    }
    for (const waiters of this.#aside.values()) for (const waiter of waiters) this.#letGo(waiter);
  }

  /**
   * Copies to DRAM what those have left who gave way, if fetching it again takes less time than computing it again, and what will soon have to go. Asked when
   * all of a step has its blocks: those that were needed are taken by then, and what is copied is what is left.
   */
  swapOut(): void {
    for (const path of this.#leftBehind) {
      const left = path.filter(({ isGone }) => !isGone);
      if (this.#costs !== null && isWorthSwapping(this.#costs, left.length, this.#cache.block_size)) this.#start(this.#cache.copy(left));
    }
    if (this.#leftBehind.length > 0) this.#leftBehind = [];
    this.#start(this.#cache.copy('cold'));
  }

  #start(transfer: Transfer | null): void {
    if (transfer !== null) this.#transfers.push(transfer);
  }

  /** What is known of the blocks that a sequence is about to lose, where they might be copied to DRAM. */
  pathToKeep({ holding }: RunningSequence): readonly RememberedNode[] {
    return this.#hasDram ? this.#cache.remember(holding) : [];
  }

  /** It has lost its blocks to others; `path`: what of them is to be kept. */
  giveWay(victim: RunningSequence, path: readonly RememberedNode[]): void {
    victim.wasFetched = false;
    if (path.length > 0) this.#leftBehind.push(path);
  }

  #seek(next: RunningSequence): Holding | 'aside' | 'full' {
    if (this.#ready.delete(next)) {
      const { holding } = next;
      next.holding = noHolding(next.sequence);
      return holding;
    }
    const holding = this.#match(next);
    if (next.wasFetched) return this.#withoutTail(holding);
    const { awaited, swapped, known, tail } = holding;
    if (awaited === 0 && swapped.length === 0 && tail === null) {
      if (this.#length >= ASIDE_MAX || !this.wants.ask(next, known)) return holding;
      this.#cache.free(holding);
      next.isAside = true;
      this.#length++;
      return 'aside';
    }
    if (this.#length >= ASIDE_MAX) return this.#refuse(holding);
    // What is being moved is not matched, and worth waiting for only where it is there sooner than computed.
    if (awaited !== 0 && this.#isWorthWaitingFor(awaited, known)) {
      this.#cache.free(holding);
      return this.#setAside(next, awaited);
    }
    if (swapped.length > 0 && this.#isWorthIt(swapped.length, known)) return this.#bring(next, holding, this.#cache.populate(holding));
    if (tail === null) return holding;
    return this.#cache.canAllocate(1) ? this.#bring(next, holding, this.#cache.copy(holding)) : this.#refuse(holding);
  }

  #match({ tokens, sequence: { request, context, cache_salt } }: RunningSequence): Holding {
    const space = cacheSpace(cache_salt);
    const named = context === '' ? null : this.#cache.matchByID(context, space, tokens, tokens.length - 1, request);
    return named ?? this.#cache.matchByPrefixToken(space, tokens, tokens.length - 1, request);
  }

  /** What others have asked for, by the link that it comes by. */
  #isWorthWaitingFor(transfer: number, known: number): boolean {
    const { transfers, block_size } = this.#cache;
    if (!transfers.isPopulate(transfer)) return this.#isWorthIt(transfers.nodesOf(transfer), known);
    const isWorthIt = this.#costs !== null && isWorthFetching(this.#costs, 'remote', transfers.nodesOf(transfer), block_size, known);
    if (!isWorthIt) this.wants.refused++;
    return isWorthIt;
  }

  /** Of DRAM. */
  #isWorthIt(blocks: number, known: number): boolean {
    const isWorthIt = this.#costs !== null && isWorthFetching(this.#costs, 'dram', blocks, this.#cache.block_size, known);
    if (!isWorthIt) this.hits_refused++;
    return isWorthIt;
  }

  #bring(next: RunningSequence, holding: Holding, transfer: Transfer | null): Holding | 'aside' | 'full' {
    // Nothing had to be copied, or there was no room for it.
    if (transfer === null) return holding.swapped.length > 0 ? this.#refuse(holding) : holding;
    this.#transfers.push(transfer);
    next.holding = holding;
    next.wasFetched = true;
    return this.#setAside(next, transfer.id);
  }

  #setAside(next: RunningSequence, id: number): 'aside' {
    const waiters = this.#aside.get(id);
    if (waiters === undefined) this.#aside.set(id, [next]);
    else waiters.push(next);
    next.isAside = true;
    this.#length++;
    return 'aside';
  }

  #refuse(holding: Holding): 'full' {
    this.#cache.free(holding);
    return 'full';
  }

  /** One that shares a tail cannot write there. */
  #withoutTail(holding: Holding): Holding {
    this.#cache.letGoOfTail(holding);
    return holding;
  }

  #letGo(running: RunningSequence): void {
    this.#ready.delete(running);
    this.#cache.free(running.holding);
    running.holding = noHolding(running.sequence);
  }
}
