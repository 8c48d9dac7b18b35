/**
 * KV that a prefill group has computed and lends to whoever goes on with the sequence (xDeepServe §5.1, steps 3 and 8).
 *
 *   computed ─▶ lent ─▶ offered ─▶ (pulled, or nobody will) ─▶ its blocks are free
 * @module
 */
import { prefilled, transferred } from '../../src/protocol/constructors.ts';
import type { Commands, KvOffer } from '../../src/protocol/messages.ts';
import type { KvRequests } from './kv-requests.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningSequence } from './running-sequence.ts';

export class KvLending {
  readonly #cache: RelationalTensorCache;
  readonly #requests: KvRequests;
  readonly #lent = new Map<number, RunningSequence>();
  readonly #ids = new Map<RunningSequence, number>();
  readonly #expiring = new Set<number>();
  /** Leases that ended before their blocks were pulled. */
  leases_expired = 0;

  constructor(cache: RelationalTensorCache, requests: KvRequests) {
    this.#cache = cache;
    this.#requests = requests;
  }

  /** Sequences whose blocks wait to be pulled. */
  get size(): number {
    return this.#lent.size;
  }

  /** The transfer is one of these. */
  has(id: number): boolean {
    return this.#lent.has(id);
  }

  /** Lends what the sequence has computed. */
  lend(running: RunningSequence): void {
    const id = this.#requests.begin();
    this.#lent.set(id, running);
    this.#ids.set(running, id);
    this.#requests.ask({ kind: 'offer', id, blocks: [...running.holding.blocks] });
  }

  /** It is lent: who goes on with it is told where it lies. */
  offered(id: number, offer: KvOffer): readonly Commands['send'][] {
    const running = this.#lent.get(id);
    if (running === undefined || running.end !== 'none') return [];
    return [{ to: running.task, message: prefilled({ output: running.tokens.slice(running.sequence.prompt.length), offer }) }];
  }

  /** The time is over for which it was lent. */
  expire(id: number): void {
    if (!this.#lent.has(id)) return;
    this.#expiring.add(id);
    this.#requests.ask({ kind: 'withdraw', id });
  }

  /** Nobody wants it any more: it is let go of when its transfer has ended. False: it is none of these. */
  giveUp(running: RunningSequence): boolean {
    const id = this.#ids.get(running);
    if (id === undefined) return false;
    this.#requests.ask({ kind: 'withdraw', id });
    return true;
  }

  /** The memory failed in which it lies: all is called back. */
  distrust(): void {
    for (const [id, running] of this.#lent) {
      running.isSound = false;
      this.#requests.ask({ kind: 'withdraw', id });
    }
  }

  /** Nobody reads it any more: whose it was, and what to tell its task unless it was abandoned. */
  end(id: number, wasPulled: boolean, keepsPrefixes: boolean): { readonly over: RunningSequence; readonly messages: readonly Commands['send'][] } {
    const running = this.#lent.get(id) as RunningSequence;
    if (this.#expiring.delete(id) && !wasPulled) this.leases_expired++;
    this.#ids.delete(running);
    this.#lent.delete(id);
    this.#cache.free(running.holding, running.tokens, keepsPrefixes && running.isSound ? running.computed : 0);
    return { over: running, messages: running.end === 'none' ? [{ to: running.task, message: transferred() }] : [] };
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): { readonly lent: object; readonly expiring: readonly number[]; readonly leases_expired: number } {
    const lent = Object.fromEntries([...this.#lent].map(([id, { task }]) => [id, task]));
    return { lent, expiring: [...this.#expiring], leases_expired: this.leases_expired };
  }
}
