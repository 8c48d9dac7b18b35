/**
 * All that moves from one executor to another, on this thread: one isolated instance for each pair, so that one that breaks takes no other with it
 * (xDeepServe §5.1). Its owner starts, polls and drains; nothing is waited for.
 *
 *   started ─▶ under way: polled in turn, each a bounded number of bytes ─▶ ended: queue up until they are drained
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { Backend } from './backend.ts';
import type { Checksum } from './checksum.ts';
import { type Guard, POLL_BYTES } from './copying.ts';
import { End } from './end.ts';
import { LeaseReturn, type UnreturnedLease } from './lease-return.ts';
import { LinkProbe } from './link-probe.ts';
import { noTransfers, type Poll, type TransferCounters } from './outcome.ts';
import { Pull } from './pull.ts';
import type { OfferSource, Registration } from './registration.ts';
import type { Scatter } from './scatter.ts';
import { type Terms, Transfer } from './transfer.ts';

/** Who pulls: a die of this thread, in the life that the thread knows of. */
export type Owner = { readonly die: number; readonly epoch: number };
export type Ended<Token> = { readonly token: Token; readonly end: Poll };
type UnderWay<Token> = { readonly moving: Transfer | Pull; readonly token: Token; isOver: boolean };

/** Bytes that all transfers of an instance move in one turn of its owner's loop. */
const TURN_BYTES = 2 * POLL_BYTES;

export class Instance<Token> {
  readonly source: number;
  readonly target: number;
  readonly backend: Backend;
  readonly counters: TransferCounters = noTransfers();
  readonly #probe = new LinkProbe();
  readonly #space: AddressSpace;
  readonly #checksum: Checksum;
  #underWay: UnderWay<Token>[] = [];
  #ended: Ended<Token>[] = [];
  #returns: LeaseReturn[] = [];
  #unreturned: UnreturnedLease[] = [];
  /** Whose turn it is first, so that none starves behind a line of long ones. */
  #first = 0;

  /** `source`, `target`: executors. */
  constructor(source: number, target: number, space: AddressSpace, backend: Backend, checksum: Checksum) {
    this.source = source;
    this.target = target;
    this.backend = backend;
    this.#space = space;
    this.#checksum = checksum;
  }

  /** Under way, so far as the last poll knows. */
  get pending(): number {
    return this.#underWay.length + this.#returns.length;
  }

  /** What is under way waits for the source alone: there is nothing to do before that answers. */
  get isIdle(): boolean {
    if (this.backend.isWaiting) return true;
    for (let index = 0; index < this.#underWay.length; index++) if (!(this.#underWay[index] as UnderWay<Token>).moving.waitsForHolder) return false;
    return this.#returns.length === 0;
  }

  /** What a source comes to have is looked for by polls, now and then: it tells of nothing. */
  get mustAskAgain(): boolean {
    if (this.backend.isMemory) return false;
    for (let index = 0; index < this.#underWay.length; index++) if ((this.#underWay[index] as UnderWay<Token>).moving.waitsForHolder) return true;
    return false;
  }

  /** Ended and not drained. */
  get ready(): number {
    return this.#ended.length;
  }

  /** By raw addresses. The token comes back with its end. @throws as `Transfer`; why the link is broken, once it is. */
  transfer(token: Token, owner: Owner, source: Scatter, target: Scatter, terms: Terms): Transfer {
    return this.#watch(token, new Transfer(this.#end(owner), source, target, terms));
  }

  /** Of what is on offer. `targets`: where each block goes; `guard`: as `Pull`. @throws as `Pull`; why the link is broken, once it is. */
  pull(token: Token, owner: Owner, registration: Registration, source: OfferSource, targets: ArrayLike<number>, guard: Guard | null = null): Pull {
    return this.#watch(token, new Pull(this.#end(owner), registration, source, targets, guard));
  }

  /** Lets go of a lease that another instance's pull left behind. */
  return(lease: UnreturnedLease): void {
    this.#returns.push(new LeaseReturn(this.backend, lease));
  }

  /** Leases that cannot be let go of here any more: another instance is to. */
  takeUnreturned(): readonly UnreturnedLease[] {
    const unreturned = this.#unreturned;
    this.#unreturned = [];
    return unreturned;
  }

  /** Lets all go on by about so many bytes together. How many ended, leases that were returned among them. */
  poll(budget_bytes = TURN_BYTES): number {
    this.backend.poll();
    const before = this.#ended.length;
    const count = this.#underWay.length;
    let left = budget_bytes;
    for (let turn = 0; turn < count && left > 0; turn++) left -= this.#pollOne((this.#first + turn) % count, left);
    if (this.#ended.length > before) this.#underWay = this.#underWay.filter(({ isOver }) => !isOver);
    this.#first = this.#underWay.length === 0 ? 0 : (this.#first + 1) % this.#underWay.length;
    return this.#ended.length - before + (this.#returns.length > 0 ? this.#pollReturns() : 0);
  }

  /** Takes what has ended, in the order in which it was seen to. */
  drain(): readonly Ended<Token>[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }

  get probes(): LinkProbe['counters'] {
    return this.#probe.counters;
  }

  /** Whether the link is well though nothing is pulled by it. `addressOf`: any words of an executor's. A memory has no link. */
  probe(addressOf: (executor: number) => number): void {
    if (this.backend.isMemory) return;
    if (this.pending === 0) this.backend.poll();
    this.#probe.look(this.backend, addressOf, this.source);
  }

  /** Everything under way fails with `link_broken` at the next polls, nothing new starts. The holders' leases are theirs to end. */
  break(why: string): void {
    this.backend.close(new MinipodError('worker_failed', `the link from executor ${this.source} to ${this.target} ended: ${why}`));
  }

  #end({ die, epoch }: Owner): End {
    if (this.backend.broken !== null) throw this.backend.broken;
    return new End(this.#space, this.backend, this.#checksum, die, epoch);
  }

  #watch<Moving extends Transfer | Pull>(token: Token, moving: Moving): Moving {
    this.#underWay.push({ moving, token, isOver: false });
    this.counters.started++;
    return moving;
  }

  #pollReturns(): number {
    const before = this.#returns.length;
    this.#returns = this.#returns.filter((giving) => {
      const state = giving.poll();
      if (state === 'failed') this.#unreturned.push(giving.lease);
      return state === 'pending';
    });
    return before - this.#returns.length;
  }

  /** Bytes that it moved. */
  #pollOne(index: number, budget_bytes: number): number {
    const underWay = this.#underWay[index] as UnderWay<Token>;
    const { moving, token } = underWay;
    const before = moving.copied_bytes;
    const end = moving.poll(Math.min(POLL_BYTES, budget_bytes));
    const moved = moving.copied_bytes - before;
    if (end.state === 'pending') return moved;
    underWay.isOver = true;
    this.#ended.push({ token, end });
    if (end.state === 'done') {
      this.counters.done++;
      this.counters.bytes += moving.copied_bytes;
    } else {
      this.counters.failed[end.reason]++;
      this.counters.wasted_bytes += moving.copied_bytes;
      if (moving instanceof Pull && moving.unreturned !== null) this.#unreturned.push(moving.unreturned);
    }
    return moved;
  }
}
