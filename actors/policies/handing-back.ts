/**
 * What a DP group gives back that is to stand by: all of its sequences, each as soon as no step computes it, so at the next step's end.
 *
 *   decodes        its KV is lent ─▶ offered: its task goes on elsewhere, with that ─▶ pulled, or nobody did in time
 *   anything else  its task goes on elsewhere, and what was known of it is computed anew
 *
 * Where computing it anew is cheaper than its way, KV is not lent either. What comes late, since its sender did not know, is given back at once.
 */
import { type Address, idOf } from '../../src/protocol/address.ts';
import { groupLeft } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { isWorthFetching } from './cache-costs.ts';
import type { RunningSequence } from './running-sequence.ts';
import type { SchedulerLimits } from './scheduler-limits.ts';
import type { StepScheduler } from './step-scheduler.ts';

/** KV that nobody has pulled by then is not waited for: who goes on computes it anew. */
export const HANDED_LEASE_MS = 5_000;

export class HandingBack {
  readonly #self: Address;
  readonly #limits: SchedulerLimits;
  /** Who is to hear when nothing is left; null: the group takes part. */
  #task_executor: Address | null = null;
  #isTold = false;
  /** KV goes along. */
  #lends = true;
  /** Those that were given back since it began: what is heard of them now is for who has them. */
  readonly #handed = new Set<Address>();

  constructor(self: Address, limits: SchedulerLimits) {
    this.#self = self;
    this.#limits = limits;
  }

  get isUnderWay(): boolean {
    return this.#task_executor !== null;
  }

  begin(task_executor: Address, lends: boolean): void {
    this.#task_executor = task_executor;
    this.#lends = lends;
    this.#isTold = false;
    this.#handed.clear();
  }

  end(): void {
    this.#task_executor = null;
  }

  wasHanded(task: Address): boolean {
    return this.#handed.has(task);
  }

  /** It is here, perhaps again. */
  arrive(task: Address): void {
    this.#handed.delete(task);
  }

  /** What there is to give back now; and, once, that nothing is left. */
  take(scheduler: StepScheduler): readonly Commands['send'][] {
    if (this.#task_executor === null) return [];
    const messages: Commands['send'][] = [];
    for (const running of scheduler.atRest) {
      this.#handed.add(running.task);
      messages.push(...scheduler.giveAway(running, this.#isWorthLending(running, scheduler)));
    }
    if (!this.#isTold && scheduler.isEmpty) {
      this.#isTold = true;
      messages.push({ to: this.#task_executor, message: groupLeft(idOf(this.#self)) });
    }
    return messages;
  }

  /** The KV of all its tokens but the last is there, that of drafts too: whoever takes it keeps it for others. */
  #isWorthLending(running: RunningSequence, { cache, handoffs }: StepScheduler): boolean {
    const { cache_costs, kv_block_size, offers_max } = this.#limits;
    if (
      !this.#lends ||
      running.slot < 0 ||
      !running.isDecoding ||
      !running.isSound ||
      running.isDegraded ||
      running.hole >= 0 ||
      running.damage.length > 0 ||
      running.computed !== running.tokens.length - 1
    )
      return false;
    if (handoffs.lent >= offers_max) return false;
    return cache_costs === null || isWorthFetching(cache_costs, 'remote', cache.blocksFor(running.computed), kv_block_size, 0);
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { task_executor: this.#task_executor, is_told: this.#isTold, handed: [...this.#handed] };
  }
}
