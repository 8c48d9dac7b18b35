/**
 * Who runs on an NPU, in the order of their turns, each with a slot of its batch.
 * @module
 */
import { BatchSlots } from './batch-slots.ts';
import { type End, GOES_ON } from './output-reports.ts';
import { outputOf, type RunningSequence, tokensToLaunch } from './running-sequence.ts';
import { isBefore } from './waiting-line.ts';

export class RunningBatch implements Iterable<RunningSequence> {
  readonly #running: RunningSequence[] = [];
  readonly #slots: BatchSlots;

  constructor(requests_max: number) {
    this.#slots = new BatchSlots(requests_max);
  }

  get size(): number {
    return this.#running.length;
  }

  get hasFreeSlot(): boolean {
    return this.#slots.hasFree;
  }

  [Symbol.iterator](): Iterator<RunningSequence> {
    return this.#running[Symbol.iterator]();
  }

  /** Nearly always at the end: who waits has come later than who runs. */
  add(next: RunningSequence): void {
    let at = this.#running.length;
    while (at > 0 && isBefore(next, this.#running[at - 1] as RunningSequence)) at--;
    this.#running.splice(at, 0, next);
    next.slot = this.#slots.take();
  }

  /** It runs no more; its slot is its own until nothing computes it any longer. */
  leave(running: RunningSequence): void {
    this.#running.splice(this.#running.indexOf(running), 1);
  }

  giveSlot(running: RunningSequence): void {
    this.#slots.give(running.slot);
    running.slot = -1;
  }

  /** Slots whose sequences are gone since this was asked last: the NPU frees what it holds for them. */
  takeDetached(): readonly number[] {
    return this.#slots.takeDetached();
  }

  /** Those who have something to compute: who decodes, then who prefills, each in order of their turns. */
  inOrder(): readonly RunningSequence[] {
    const decodes: RunningSequence[] = [];
    const prefills: RunningSequence[] = [];
    for (const running of this.#running) {
      const count = tokensToLaunch(running);
      if (count === 1) decodes.push(running);
      else if (count > 1) prefills.push(running);
    }
    return decodes.length === 0 ? prefills : prefills.length === 0 ? decodes : [...decodes, ...prefills];
  }

  /** Who came first of all, whatever the turns. */
  oldest(): RunningSequence | null {
    let oldest: RunningSequence | null = null;
    for (const running of this.#running) if (oldest === null || running.arrival < oldest.arrival) oldest = running;
    return oldest;
  }

  /** Who gives way for `running`: the last that no step computes, never the oldest. Null: nobody behind it. */
  victimFor(running: RunningSequence, oldest: RunningSequence | null): RunningSequence | null {
    const victim = this.#running.findLast((other) => other.flights === 0 && other !== oldest);
    return victim === undefined || victim === running ? null : victim;
  }

  /**
   * Whether one of them computes, right now, a prompt that begins with the same `positions` tokens: choices of one prompt, or a burst of requests that begin
   * alike. Waiting for it costs two steps at most, since who computes a prompt takes all of the budget until its last chunk.
   */
  computesPrefixOf({ tokens, sequence }: RunningSequence, positions: number): boolean {
    if (positions >= tokens.length) return false;
    return this.#running.some((other) => {
      const { computed, tokens: own } = other;
      if (computed >= own.length - 1 || own.length < positions || other.sequence.cache_salt !== sequence.cache_salt) return false;
      for (let at = positions - 1; at >= 0; at--) if (own[at] !== tokens[at]) return false;
      return true;
    });
  }

  toJSON(): { readonly running: readonly RunningSequence[] } {
    return { running: [...this.#running], ...this.#slots.toJSON() };
  }
}

/** As a snapshot shows it: of its holding the block table. */
export const withTable = ({ holding, ...running }: RunningSequence): object => ({ ...running, blocks: holding.blocks, shared: holding.path.length });

/** How a token ends its sequence, if it does: by itself (`stops`, then it is no part of the text), or as the last that was asked for. */
export function finishOf(running: RunningSequence, token: number): End {
  const { sampling, max_tokens } = running.sequence;
  const stops = outputOf(running) > sampling.min_tokens && sampling.stop_token_ids.includes(token);
  const isLast = outputOf(running) >= max_tokens;
  return stops || isLast ? { finish: stops ? 'stop' : 'length', stops } : GOES_ON;
}
