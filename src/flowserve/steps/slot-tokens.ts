/**
 * How far each slot's sequence has got, as its NPU knows it: the token that was drawn last and its position. A step that was planned while the one before it ran
 * goes on from here, with the drafts that are known by now:
 *
 *   planned     [ LAST_SAMPLED ] at `start` or behind it, at most `drafts` more
 *   resolved    [ token, draft 1 … draft d ] at its position
 *
 * Where nothing was drafted the plan is right as it is, and its token is looked up when it is written down.
 * @module
 */
import { LAST_SAMPLED, type StepEntry, type StepPlan } from '../../protocol/steps.ts';
import type { Drafter } from '../drafters/drafter.ts';

export class SlotTokens {
  readonly drafter: Drafter | null;
  /** By slot. */
  readonly #tokens: number[] = [];
  readonly #positions: number[] = [];

  /** `drafter`: null where nothing is drafted. */
  constructor(drafter: Drafter | null) {
    this.drafter = drafter;
  }

  /** The slot's sequence has this token at that position. Where none could be drawn, a step that goes on with it computes for nobody, but it computes something. */
  drew(slot: number, token: number, position: number): void {
    this.#tokens[slot] = Math.max(0, token);
    this.#positions[slot] = position;
    if (token >= 0) this.drafter?.drew(slot, token);
  }

  lastOf(slot: number): number {
    return this.#tokens[slot] as number;
  }

  /** The plan as it is run. Only when the step before has drawn its tokens, and before it is attached to any slot. */
  resolve(plan: StepPlan): StepPlan {
    const { drafter } = this;
    if (drafter === null) return plan;
    for (const entry of plan.entries)
      if (this.#isOpen(entry)) return { ...plan, entries: plan.entries.map((one) => (this.#isOpen(one) ? this.#resolved(one, drafter) : one)) };
    return plan;
  }

  /** What it computes, and where, depends on what was drawn before it, beyond which token that is. */
  #isOpen({ slot, start, tokens, drafts, attach }: StepEntry): boolean {
    return (drafts > 0 && attach === null) || (tokens[0] === LAST_SAMPLED && this.#positions[slot] !== start);
  }

  #resolved(entry: StepEntry, drafter: Drafter): StepEntry {
    const { slot, tokens } = entry;
    const isLast = tokens[0] === LAST_SAMPLED;
    const start = isLast ? (this.#positions[slot] as number) : entry.start;
    const all = isLast ? [this.lastOf(slot)] : [...tokens];
    if (entry.drafts > 0) drafter.draft(slot, entry.drafts, all);
    return { ...entry, start, tokens: all, generated: entry.generated + start - entry.start, drafts: all.length - tokens.length };
  }
}
