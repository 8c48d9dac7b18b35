/**
 * How far each slot's sequence has got, as its NPU knows it: the token that was drawn last and its position. A step that was planned while the one before it ran
 * goes on from here, with the drafts that are known by now:
 *
 *   planned     [ LAST_SAMPLED ] at `start` or behind it, at most `drafts` more
 *   resolved    [ token, draft 1 … draft d ] at its position
 * @module
 */
import { LAST_SAMPLED, type StepEntry, type StepPlan } from '../protocol/steps.ts';
import type { Drafter } from './drafters/drafter.ts';

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
    if (this.drafter === null || !plan.entries.some(isOpen)) return plan;
    return { ...plan, entries: plan.entries.map((entry) => (isOpen(entry) ? this.#resolved(entry, this.drafter as Drafter) : entry)) };
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

/** Which tokens it computes, and where, depends on what was drawn before it. */
const isOpen = ({ tokens, drafts, attach }: StepEntry): boolean => (drafts > 0 && attach === null) || tokens[0] === LAST_SAMPLED;
