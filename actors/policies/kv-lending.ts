/**
 * KV that a prefill group has computed and lends to whoever goes on with the sequence (xDeepServe §5.1, steps 3 and 8).
 *
 *   by request   computed ─▶ lent ─▶ offered ─▶ (pulled, or nobody will) ─▶ its blocks are free
 *   by layer     last step planned: lent ahead ─▶ it begins: offered ─▶ computed ─▶ (pulled, or nobody will) ─▶ its blocks are free
 *
 * A group that is to stand by lends in the same way what it was decoding: then the task itself goes on elsewhere.
 * What is lent ahead still has its slot and is computed; nobody can take its blocks away meanwhile but a step that fails.
 * @module
 */
import { handedBack, lent, prefilled, transferred } from '../../src/protocol/constructors.ts';
import type { Commands, Handoff, KvOffer } from '../../src/protocol/messages.ts';
import { keepable } from './foresight.ts';
import type { KvRequests } from './kv-requests.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import { goesOnElsewhere, outputTokens, type RunningSequence } from './running-sequence.ts';

export class KvLending {
  readonly #cache: RelationalTensorCache;
  readonly #requests: KvRequests;
  readonly #keepsPrefixes: boolean;
  readonly #lent = new Map<number, RunningSequence>();
  readonly #ids = new Map<RunningSequence, number>();
  /** Where they lie, once that is known. */
  readonly #offers = new Map<RunningSequence, KvOffer>();
  /** Lent ahead, and wanted still. */
  readonly #ahead = new Set<RunningSequence>();
  /** Of those, whose offers are over already. */
  readonly #early = new Set<RunningSequence>();
  readonly #expiring = new Set<number>();
  /** Leases that ended before their blocks were pulled. */
  leases_expired = 0;

  constructor(cache: RelationalTensorCache, requests: KvRequests, keepsPrefixes: boolean) {
    this.#cache = cache;
    this.#requests = requests;
    this.#keepsPrefixes = keepsPrefixes;
  }

  /** Sequences whose blocks wait to be pulled, and that are not computed any more. */
  get size(): number {
    return this.#lent.size + this.#early.size - this.#ahead.size;
  }

  get isUnderWay(): boolean {
    return this.#lent.size > 0;
  }

  /** Somebody may read its blocks. */
  holds(running: RunningSequence): boolean {
    return this.#ids.has(running);
  }

  /** It was lent before its step was over, though that may have ended already. */
  isAhead(running: RunningSequence): boolean {
    return this.#ahead.has(running);
  }

  /** The transfer is one of these. */
  has(id: number): boolean {
    return this.#lent.has(id);
  }

  /** Lends what `step` is to compute, the last of its prompt, if a decode group will go on with it. */
  lendAhead(running: RunningSequence, step: number, isMasked: boolean): void {
    if (!goesOnElsewhere(running)) return;
    running.isDegraded ||= isMasked;
    this.#ahead.add(running);
    this.#offer(running, step);
  }

  /** Lends what the sequence has computed, if it has not been lent ahead. True: it has been, and is over already. */
  lend(running: RunningSequence, messages: Commands['send'][]): boolean {
    if (!this.#ahead.delete(running)) {
      this.#offer(running, 0);
      return false;
    }
    const offer = this.#offers.get(running);
    if (offer !== undefined) messages.push(prefilledOf(running, offer));
    if (!this.#early.delete(running)) return false;
    messages.push(...this.#letGo(running));
    return true;
  }

  #offer(running: RunningSequence, step: number): void {
    const id = this.#requests.begin();
    this.#lent.set(id, running);
    this.#ids.set(running, id);
    this.#requests.ask({ kind: 'offer', id, blocks: running.holding.blocks.slice(0, this.#cache.blocksFor(running.launched)), step });
  }

  /** It is lent: who goes on with it is told where it lies. */
  offered(id: number, offer: KvOffer): readonly Commands['send'][] {
    const running = this.#lent.get(id);
    if (running === undefined || running.end !== 'none') return [];
    this.#offers.set(running, offer);
    if (!this.#ahead.has(running)) return [prefilledOf(running, offer)];
    return [{ to: running.task, message: lent({ output: running.sequence.output, offer, ahead: true, ...degradedOf(running) }) }];
  }

  /** The time is over for which it was lent. */
  expire(id: number): void {
    if (!this.#lent.has(id)) return;
    this.#expiring.add(id);
    this.#requests.ask({ kind: 'withdraw', id });
  }

  /** Nobody wants it any more: it is let go of when its transfer has ended. False: its transfer is not all that it is in, or it is none of these. */
  giveUp(running: RunningSequence): boolean {
    const id = this.#ids.get(running);
    if (id !== undefined) this.#requests.ask({ kind: 'withdraw', id });
    if (this.#early.delete(running)) this.#offers.delete(running);
    return !this.#ahead.delete(running) && id !== undefined;
  }

  /** The memory failed in which it lies: all is called back. */
  distrust(): void {
    for (const [id, running] of this.#lent) {
      running.isSound = false;
      this.#requests.ask({ kind: 'withdraw', id });
    }
  }

  /** Nobody reads it any more. Gives whose it was, unless it is computed still, and what to tell its task, unless nobody wants it. */
  end(id: number, wasPulled: boolean): { readonly over: RunningSequence | null; readonly messages: readonly Commands['send'][] } {
    const running = this.#lent.get(id) as RunningSequence;
    if (this.#expiring.delete(id) && !wasPulled) this.leases_expired++;
    this.#ids.delete(running);
    this.#lent.delete(id);
    if (this.#ahead.has(running)) {
      this.#early.add(running);
      return { over: null, messages: [] };
    }
    // One that was given up under its last step has its slot still, and lets go of its blocks with that.
    if (running.slot >= 0) this.#offers.delete(running);
    const messages = running.slot >= 0 ? [] : this.#letGo(running);
    return { over: running, messages: running.end === 'none' ? messages : [] };
  }

  #letGo(running: RunningSequence): Commands['send'][] {
    const isTold = this.#offers.delete(running);
    this.#cache.free(running.holding, running.tokens, this.#keepsPrefixes && running.isSound && !running.isDegraded ? keepable(running) : 0);
    if (running.stage === 'prefill') return [{ to: running.task, message: transferred() }];
    // It goes on elsewhere already, unless it ended before it could be offered.
    return isTold ? [] : [{ to: running.task, message: handedBack(outputTokens(running), null) }];
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const byId = Object.fromEntries([...this.#lent].map(([id, { task }]) => [id, task]));
    const offers = [...this.#offers].map(([{ task }, offer]) => ({ task, offer }));
    const ahead = [...this.#ahead].map(({ task }) => task);
    const early = [...this.#early].map(({ task }) => task);
    return { lent: byId, offers, ahead, early, expiring: [...this.#expiring], leases_expired: this.leases_expired };
  }
}

const draftsOf = ({ foreseen }: RunningSequence): { drafts?: readonly number[] } => (foreseen.length > 0 ? { drafts: foreseen } : {});

const prefilledOf = (running: RunningSequence, offer: KvOffer): Commands['send'] => ({
  to: running.task,
  message:
    running.stage === 'prefill'
      ? prefilled({ output: outputTokens(running), offer, ahead: false, ...draftsOf(running), ...degradedOf(running) })
      : handedBack(outputTokens(running), offer),
});

const degradedOf = ({ isDegraded }: RunningSequence): Pick<Handoff, 'degraded'> => (isDegraded ? { degraded: true } : {});
