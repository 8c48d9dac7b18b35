/**
 * KV that others have computed, on its way to the decode group that goes on with it (xDeepServe §5.1, steps 6 to 8).
 *
 *   expected ─▶ room is there: receiving ─▶ arrived, waits for a slot ─▶ runs
 *                                    └─▶ not whole: waits to be computed here
 *
 * One that comes ahead of its prefill's last token goes on, either way, when that has been handed over.
 *
 * Who lacks room asks for nothing: the blocks stay where they are, and that side takes in less (back-pressure).
 * @module
 */
import { preempted, receiving } from '../../src/protocol/constructors.ts';
import { assert } from '../../src/protocol/errors.ts';
import type { Commands, Handoff, KvOffer } from '../../src/protocol/messages.ts';
import { goOnFrom, reachOf } from './foresight.ts';
import type { KvRequests } from './kv-requests.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import { outputOf, type RunningSequence } from './running-sequence.ts';
import { isBefore, type Turn, WaitingLine } from './waiting-line.ts';

/** Beyond the slots that are free: whose KV is there when the next slot is. More would take room from those that run. */
const RECEIVED_AHEAD = 2;

type Expected = Turn & { readonly running: RunningSequence; readonly offer: KvOffer };

export class KvReceiving {
  readonly #cache: RelationalTensorCache;
  readonly #requests: KvRequests;
  /** Of those whose KV has to be computed here. */
  readonly #waiting: WaitingLine<RunningSequence>;
  readonly #expected = new WaitingLine<Expected>();
  readonly #offers = new Map<RunningSequence, Expected>();
  readonly #receiving = new Map<number, RunningSequence>();
  readonly #ids = new Map<RunningSequence, number>();
  /** Their last token is not known yet. */
  readonly #ahead = new Set<RunningSequence>();
  /** They wait for that alone; whether their KV is there. */
  readonly #tokenless = new Map<RunningSequence, boolean>();
  /** They have their KV, and wait for a slot alone. */
  readonly #arrived = new WaitingLine<RunningSequence>();
  readonly #isThere = new Set<RunningSequence>();

  constructor(cache: RelationalTensorCache, waiting: WaitingLine<RunningSequence>, requests: KvRequests) {
    this.#cache = cache;
    this.#waiting = waiting;
    this.#requests = requests;
  }

  /** Sequences whose blocks are on their way, or wait for room; or whose token is on its way. */
  get expected(): number {
    return this.#receiving.size + this.#expected.length + this.#tokenless.size;
  }

  /** Blocks are held that will be free, or lead on, without a step of this group. */
  get isUnderWay(): boolean {
    return this.#receiving.size + this.#tokenless.size > 0;
  }

  /** Who waits for a slot with their KV. */
  get arrived(): number {
    return this.#isThere.size;
  }

  /** The first of them. */
  get firstArrived(): RunningSequence | null {
    return this.#arrived.first ?? null;
  }

  /** Whose turn of them is the last. */
  get lastArrived(): RunningSequence | null {
    let last: RunningSequence | null = null;
    for (const running of this.#isThere) if (last === null || isBefore(last, running)) last = running;
    return last;
  }

  /** It comes with KV that lies elsewhere, and is received in turn. */
  expect(running: RunningSequence, { offer, ahead, drafts = [], degraded }: Handoff): void {
    running.foreseen = drafts;
    running.isDegraded = degraded === true;
    if (ahead) this.#ahead.add(running);
    const expected = { rank: running.rank, arrival: running.arrival, running, offer };
    this.#offers.set(running, expected);
    this.#expected.push(expected);
  }

  /**
   * Asks for those for whom there is room, beside a block for each of the `running` who may soon need one, and soon a slot; not before anybody whose turn it is,
   * who waits to be computed here.
   */
  receive(running: number, free_slots: number): readonly Commands['send'][] {
    const messages: Commands['send'][] = [];
    for (let next = this.#expected.first; next !== undefined; next = this.#expected.first) {
      const ahead = this.#waiting.first;
      if (this.#receiving.size + this.#tokenless.size + this.arrived >= free_slots + RECEIVED_AHEAD || (ahead !== undefined && isBefore(ahead, next))) break;
      const blocks = this.#cache.blocksFor(reachOf(next.running, next.running.tokens.length + (this.#ahead.has(next.running) ? 1 : 0)));
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
    const id = this.#requests.begin();
    this.#receiving.set(id, running);
    this.#ids.set(running, id);
    this.#requests.ask({ kind: 'pull', id, offer, blocks: running.holding.blocks.slice(0, offer.blocks.length) });
    return { to: running.task, message: receiving() };
  }

  /** What its prefill has generated is known. */
  handedOver(running: RunningSequence, output: readonly number[], drafts: readonly number[] = []): void {
    if (!this.#ahead.delete(running)) return;
    running.foreseen = drafts;
    running.tokens.push(...output.slice(outputOf(running)));
    const isThere = this.#tokenless.get(running);
    if (isThere === undefined) return;
    this.#tokenless.delete(running);
    this.#settle(running, isThere);
  }

  /** The first that has arrived runs from now on. */
  start(): void {
    const first = this.#arrived.first;
    assert(first, 'nobody has arrived');
    this.#arrived.shift();
    this.#isThere.delete(first);
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
    this.#ahead.delete(running);
    if (this.#tokenless.delete(running)) {
      this.#dropBlocks(running);
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
    this.#requests.ask({ kind: 'stop', id });
    return false;
  }

  /** The memory failed in which all of this lies: what has come or comes is not taken for what it should be. */
  distrust(): void {
    for (const running of [...this.#arrived]) {
      this.#leaveArrived(running);
      this.#waiting.push(running);
    }
    for (const [running] of this.#tokenless) {
      this.#dropBlocks(running);
      this.#tokenless.set(running, false);
    }
    for (const running of this.#receiving.values()) running.isSound = false;
  }

  /** Its KV is here, or will not come. Gives whose, if nobody wants it any more. */
  end(id: number, isThere: boolean): RunningSequence | null {
    const running = this.#receiving.get(id);
    assert(running, `transfer ${id} ended, and is none of this group's`);
    this.#ids.delete(running);
    this.#receiving.delete(id);
    const isWhole = running.end === 'none' && isThere && running.isSound;
    if (!isWhole) this.#dropBlocks(running);
    if (running.end !== 'none') return running;
    if (this.#ahead.has(running)) this.#tokenless.set(running, isWhole);
    else this.#settle(running, isWhole);
    return null;
  }

  #settle(running: RunningSequence, isThere: boolean): void {
    if (isThere) this.#arrive(running);
    else this.#waiting.push(running);
  }

  /** Of all its tokens but the last, the KV is there. */
  #arrive(running: RunningSequence): void {
    goOnFrom(running, running.tokens.length - 1);
    running.hole = -1;
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
    running.there = 0;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const receiving = Object.fromEntries([...this.#receiving].map(([id, { task }]) => [id, task]));
    const expected = [...this.#expected].map(({ running, offer }) => ({ task: running.task, offer }));
    const ahead = [...this.#ahead].map(({ task }) => task);
    const tokenless = [...this.#tokenless].map(([{ task }, isThere]) => ({ task, isThere }));
    return { receiving, expected, ahead_of_token: ahead, tokenless, arrived: [...this.#arrived].map(({ task }) => task) };
  }
}
