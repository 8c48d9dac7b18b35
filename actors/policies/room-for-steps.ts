/**
 * Room for the next tokens of those who run, at the cost of others: who comes later, who only waits with blocks, who has come with KV of its own.
 * Whoever gives way begins anew with what the cache has kept.
 */
import { preempted } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { CacheArrivals } from './cache-arrivals.ts';
import { keepable } from './foresight.ts';
import { nextMend } from './kv-mending.ts';
import type { KvReceiving } from './kv-receiving.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningBatch } from './running-batch.ts';
import { missingBlocks, type RunningSequence } from './running-sequence.ts';
import { isBefore, type WaitingLine } from './waiting-line.ts';

export type RoomOf = {
  readonly cache: RelationalTensorCache;
  readonly coming: CacheArrivals;
  readonly receiving: KvReceiving;
  readonly batch: RunningBatch;
  readonly waiting: WaitingLine<RunningSequence>;
};

export class RoomForSteps {
  readonly #of: RoomOf;
  readonly #hasPrefixCache: boolean;
  preemptions = 0;

  constructor(of: RoomOf, hasPrefixCache: boolean) {
    this.#of = of;
    this.#hasPrefixCache = hasPrefixCache;
  }

  /**
   * Makes room for `count` more tokens of a running sequence, at the cost of those behind it that are not in this step yet; for the oldest at the cost of any.
   * False: none is left, so it sits this step out. The oldest gets room in the end, since `enqueue` takes in nothing larger than the NPU.
   */
  make(running: RunningSequence, count: number, messages: Commands['send'][]): boolean {
    const { cache, coming, receiving, batch } = this.#of;
    const missing = missingBlocks(running, count, cache);
    let oldest: RunningSequence | null = null;
    while (missing > 0 && !cache.canAllocate(missing)) {
      if (coming.revoke()) continue;
      // What comes for nobody can be given out as soon as it has come.
      if (cache.canAllocate(missing - cache.transfers.blocks)) return false;
      oldest ??= batch.oldest();
      const victim = batch.victimFor(running, oldest);
      const last = receiving.lastArrived;
      if (last !== null && isBefore(victim ?? running, last)) this.takeArrived(last, messages);
      else if (victim !== null) this.preempt(victim, messages);
      else if (last !== null && running === oldest) this.takeArrived(last, messages);
      else return false;
    }
    return true;
  }

  /**
   * Where gates do without experts, or did, mending alone makes something else of what lay in bad memory than what later KV has come of: who needs it gives way, once
   * nothing computes him, and is computed anew. True: he sits this step out. `masked`: of the next step.
   */
  giveUpMending(running: RunningSequence, masked: readonly number[], messages: Commands['send'][]): boolean {
    if (nextMend(running) === null || (masked.length === 0 && !running.isDegraded)) return false;
    if (running.flights === 0) this.preempt(running, messages);
    return true;
  }

  preempt(victim: RunningSequence, messages: Commands['send'][]): void {
    const { coming, batch, waiting } = this.#of;
    batch.leave(victim);
    const path = coming.pathToKeep(victim);
    this.letGo(victim);
    coming.giveWay(victim, path);
    this.preemptions++;
    victim.computed = 0;
    victim.launched = 0;
    victim.there = 0;
    victim.isDecoding = false;
    victim.mustAttach = false;
    victim.damage = [];
    waiting.push(victim);
    messages.push({ to: victim.task, message: preempted() });
  }

  /** Of one that has come with its KV, and does not run yet. */
  takeArrived(victim: RunningSequence, messages: Commands['send'][]): void {
    this.#of.receiving.preempt(victim, messages);
    this.preemptions++;
  }

  /** Nothing computes it, and nobody reads its blocks. */
  letGo(running: RunningSequence): void {
    const { cache, batch } = this.#of;
    const keeps = this.#hasPrefixCache && running.isSound && !running.isDegraded;
    cache.free(running.holding, running.tokens, keeps ? keepable(running) : 0);
    batch.giveSlot(running);
  }
}
