/**
 * KV that changes hands between DP groups (xDeepServe §5.1, steps 3 and 6 to 8): what this one has computed and lends, and what it receives.
 *
 *   prefill   lent ─▶ (pulled, or nobody will) ─▶ its blocks are free
 *   decode    expected ─▶ room is there: receiving ─▶ arrived, waits for a slot ─▶ runs
 *                                              └─▶ not whole: waits to be computed here
 *
 * Who lacks room asks for nothing: the blocks stay where they are, and that side takes in less (back-pressure).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { preempted, prefilled, receiving, transferred } from '../../src/protocol/constructors.ts';
import { assert } from '../../src/protocol/errors.ts';
import type { Commands, KvOffer, Transfer } from '../../src/protocol/messages.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningSequence } from './running-sequence.ts';
import { isBefore, type Turn, WaitingLine } from './waiting-line.ts';

/** Beyond the slots that are free: whose KV is there when the next slot is. More would take room from those that run. */
const RECEIVED_AHEAD = 2;

type Expected = Turn & { readonly running: RunningSequence; readonly offer: KvOffer };
type Messages = readonly Commands['send'][];

export class KvHandoffs {
  readonly #cache: RelationalTensorCache;
  /** Of those whose KV has to be computed here. */
  readonly #waiting: WaitingLine<RunningSequence>;
  readonly #lent = new Map<number, RunningSequence>();
  readonly #receiving = new Map<number, RunningSequence>();
  readonly #expected = new WaitingLine<Expected>();
  /** By sequence: what of this module it is in. */
  readonly #ids = new Map<RunningSequence, number>();
  readonly #offers = new Map<RunningSequence, Expected>();
  /** They have their KV, and wait for a slot alone. */
  readonly #arrived = new WaitingLine<RunningSequence>();
  readonly #isThere = new Set<RunningSequence>();
  #transfers: Transfer[] = [];
  readonly #expiring = new Set<number>();
  /** Leases that ended before their blocks were pulled. */
  leases_expired = 0;
  #last = 0;

  constructor(cache: RelationalTensorCache, waiting: WaitingLine<RunningSequence>) {
    this.#cache = cache;
    this.#waiting = waiting;
  }

  /** Sequences whose blocks wait to be pulled. */
  get lent(): number {
    return this.#lent.size;
  }

  /** Sequences whose blocks are on their way, or wait for room. */
  get expected(): number {
    return this.#receiving.size + this.#expected.length;
  }

  /** Blocks are held that will be free without a step of this group. */
  get isUnderWay(): boolean {
    return this.#lent.size + this.#receiving.size > 0;
  }

  /** Lends what the sequence has computed. */
  lend(running: RunningSequence): void {
    const id = this.#begin(running);
    this.#lent.set(id, running);
    this.#transfers.push({ kind: 'offer', id, blocks: [...running.holding.blocks] });
  }

  /** It is lent: who goes on with it is told where it lies. */
  offered(id: number, offer: KvOffer): Messages {
    const running = this.#lent.get(id);
    if (running === undefined || running.end !== 'none') return [];
    return [{ to: running.task, message: prefilled({ output: running.tokens.slice(running.sequence.prompt.length), offer }) }];
  }

  /** The time is over for which it was lent. */
  expire(id: number): void {
    if (!this.#lent.has(id)) return;
    this.#expiring.add(id);
    this.#transfers.push({ kind: 'withdraw', id });
  }

  /** It comes with KV that lies elsewhere, and is received in turn. */
  expect(running: RunningSequence, offer: KvOffer): void {
    const expected = { rank: running.rank, arrival: running.arrival, running, offer };
    this.#offers.set(running, expected);
    this.#expected.push(expected);
  }

  /**
   * Asks for those for whom there is room, beside a block for each of the `running` who may soon need one, and soon a slot; not before anybody whose turn it is,
   * who waits to be computed here.
   */
  receive(running: number, free_slots: number): Messages {
    const messages: Commands['send'][] = [];
    for (let next = this.#expected.first; next !== undefined; next = this.#expected.first) {
      const ahead = this.#waiting.first;
      if (this.#receiving.size + this.arrived >= free_slots + RECEIVED_AHEAD || (ahead !== undefined && isBefore(ahead, next))) break;
      const blocks = this.#cache.blocksFor(next.running.tokens.length);
      // A sequence that takes nearly all blocks would never be received if it had to leave some.
      if (!this.#cache.canAllocate(Math.min(blocks + running, this.#cache.blocks))) break;
      messages.push(this.#receive(next, blocks));
    }
    return messages;
  }

  #receive(expected: Expected, count: number): Commands['send'] {
    const { running, offer } = expected;
    this.#expected.shift();
    this.#offers.delete(running);
    this.#cache.allocBlocks(running.holding, count);
    const id = this.#begin(running);
    this.#receiving.set(id, running);
    this.#transfers.push({ kind: 'pull', id, offer, blocks: running.holding.blocks.slice(0, offer.blocks.length) });
    return { to: running.task, message: receiving() };
  }

  /** Who waits for a slot with their KV. */
  get arrived(): number {
    return this.#isThere.size;
  }

  /** The first of them. */
  get firstArrived(): RunningSequence | null {
    return this.#arrived.first ?? null;
  }

  /** It runs from now on. */
  start(): void {
    const first = this.#arrived.first;
    assert(first, 'nobody has arrived');
    this.#arrived.shift();
    this.#isThere.delete(first);
  }

  /** Whose turn of them is the last. */
  get lastArrived(): RunningSequence | null {
    let last: RunningSequence | null = null;
    for (const running of this.#isThere) if (last === null || isBefore(last, running)) last = running;
    return last;
  }

  /** It gives its KV back before it has run, and is computed here. */
  preempt(victim: RunningSequence, messages: Commands['send'][]): void {
    this.#leaveArrived(victim);
    this.#waiting.push(victim);
    messages.push({ to: victim.task, message: preempted() });
  }

  /** Nobody wants it any more. Null: it is none of these; true: nothing of it is left; false: it is let go of when its transfer has ended. */
  giveUp(running: RunningSequence): boolean | null {
    if (this.#isThere.has(running)) {
      this.#leaveArrived(running);
      return true;
    }
    const expected = this.#offers.get(running);
    if (expected !== undefined) {
      this.#offers.delete(running);
      this.#expected.remove(expected);
      return true;
    }
    const id = this.#ids.get(running);
    if (id === undefined) return null;
    this.#transfers.push({ kind: this.#lent.has(id) ? 'withdraw' : 'stop', id });
    return false;
  }

  /** The memory failed in which all of this lies: what is lent is called back, what has come or comes is not taken for what it should be. */
  distrust(): void {
    for (const running of [...this.#arrived]) {
      this.#leaveArrived(running);
      this.#waiting.push(running);
    }
    for (const running of this.#receiving.values()) running.isSound = false;
    for (const [id, running] of this.#lent) {
      running.isSound = false;
      this.#transfers.push({ kind: 'withdraw', id });
    }
  }

  /** A transfer has ended: whose, if that one is over, and what to tell its task unless it was abandoned. */
  end(id: number, isThere: boolean, keepsPrefixes: boolean): { readonly over: RunningSequence | null; readonly messages: Messages } {
    const lent = this.#lent.get(id);
    const running = lent ?? this.#receiving.get(id);
    assert(running, `transfer ${id} ended, and is none of this group's`);
    if (this.#expiring.delete(id) && !isThere) this.leases_expired++;
    this.#ids.delete(running);
    this.#lent.delete(id);
    this.#receiving.delete(id);
    if (lent === undefined && running.end === 'none') {
      if (isThere && running.isSound) this.#arrive(running);
      else {
        this.#dropBlocks(running);
        this.#waiting.push(running);
      }
      return { over: null, messages: [] };
    }
    this.#cache.free(running.holding, running.tokens, lent !== undefined && keepsPrefixes && running.isSound ? running.computed : 0);
    return { over: running, messages: running.end === 'none' ? [tellTransferred(running.task)] : [] };
  }

  /** Of all its tokens but the last, the KV is there. */
  #arrive(running: RunningSequence): void {
    running.computed = running.tokens.length - 1;
    running.launched = running.computed;
    this.#arrived.push(running);
    this.#isThere.add(running);
  }

  #leaveArrived(running: RunningSequence): void {
    this.#arrived.remove(running);
    this.#isThere.delete(running);
    this.#dropBlocks(running);
  }

  /** The KV that came for it is gone: it is computed here, if it is wanted still. */
  #dropBlocks(running: RunningSequence): void {
    this.#cache.free(running.holding);
    running.isSound = true;
    running.computed = 0;
    running.launched = 0;
  }

  /** What the host is to do. */
  takeTransfers(): readonly Transfer[] {
    const transfers = this.#transfers;
    this.#transfers = [];
    return transfers;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const ids = (held: Map<number, RunningSequence>): object => Object.fromEntries([...held].map(([id, { task }]) => [id, task]));
    const expected = [...this.#expected].map(({ running, offer }) => ({ task: running.task, offer }));
    const arrived = [...this.#arrived].map(({ task }) => task);
    const counts = { last: this.#last, leases_expired: this.leases_expired };
    return { lent: ids(this.#lent), expiring: [...this.#expiring], receiving: ids(this.#receiving), expected, arrived, ...counts };
  }

  #begin(running: RunningSequence): number {
    const id = ++this.#last;
    this.#ids.set(running, id);
    return id;
  }
}

const tellTransferred = (task: Address): Commands['send'] => ({ to: task, message: transferred() });
