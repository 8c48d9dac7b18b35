/**
 * How many drafts a step verifies for each sequence (xDeepServe §4.6): as many as pay, by what came of those before and by what steps take.
 *
 *   a step of n rows takes      base + row × n                                     of the steps that only decode (decode-costs.ts)
 *   a token is worth            (base + row × s) / s                               with s sequences that decode
 *   a round of drafts takes     base + row × s                                     where layers compute them: how long that took, for each draft
 *   the d-th draft pays         where acceptance ^ d × (a token's worth) > row + (a round) / s
 *
 * A sequence whose drafts do not pay goes on without, and tries one after a while, then after twice as long, and so on. One that begins is expected to be as those
 * before it. Drafts change no token, so all of this is about time alone; on a virtual clock it is the same in each run.
 * @module
 */
import type { StepOutcome } from '../../src/protocol/steps.ts';
import type { DraftCounts } from '../../src/protocol/threads.ts';
import { DecodeCosts } from './decode-costs.ts';

export type DraftLimits = {
  /** Of a sequence in one step; missing: none. */
  readonly drafts_max?: number;
  /** False: all that there are; missing: as many of them as pay. */
  readonly drafts_as_pays?: boolean;
};

/** Of a sequence: its drafts that the model drew itself, and those that it did not, those of long ago forgotten; whether it may draft. */
export type DraftHistory = {
  right: number;
  wrong: number;
  /** So many tokens go by before the next try; 0: it may draft. */
  wait: number;
  /** How long the next wait is. */
  pause: number;
  /** It tries one draft, whatever is expected of it. */
  isTrying: boolean;
};

/** So much of each count is left after the next step. */
const KEPT = 0.95;
const KEPT_OF_ALL = 0.98;
/** As much as so many drafts weighs what is known of other sequences; and of those what is assumed at first: enough to try. */
const PRIOR_DRAFTS = 2;
const FIRST_ACCEPTANCE = 0.75;
const FIRST_WEIGHT = 4;
/** Tokens. */
const PAUSE_MIN = 32;
const PAUSE_MAX = 1_024;

export const newDraftHistory = (): DraftHistory => ({ right: 0, wrong: 0, wait: 0, pause: PAUSE_MIN, isTrying: false });

export class Drafting {
  readonly #drafts_max: number;
  readonly #asPays: boolean;
  readonly counts: { -readonly [Count in keyof DraftCounts]: DraftCounts[Count] } & { readonly accepted_at: number[] };
  /** Of all sequences, as in their histories. */
  #right = FIRST_ACCEPTANCE * FIRST_WEIGHT;
  #wrong = (1 - FIRST_ACCEPTANCE) * FIRST_WEIGHT;
  /** Of steps, without what computes drafts; and of that, a round: a draft of each sequence. Nothing where they are looked up. */
  readonly costs = new DecodeCosts();
  readonly rounds = new DecodeCosts();

  constructor({ drafts_max = 0, drafts_as_pays = true }: DraftLimits) {
    this.#drafts_max = drafts_max;
    this.#asPays = drafts_as_pays;
    this.counts = { drafts: 0, draft_tokens: 0, accepted_tokens: 0, accepted_at: new Array<number>(drafts_max).fill(0) };
  }

  get isOn(): boolean {
    return this.#drafts_max > 0;
  }

  /** Drafts for the next step of a sequence, one of so many that decode. */
  lengthFor(history: DraftHistory, sequences: number): number {
    if (!this.#asPays) return this.#drafts_max;
    if (history.wait > 0) return 0;
    const worthwhile = this.#worthwhile(this.#acceptanceOf(history), sequences);
    if (worthwhile > 0) return worthwhile;
    if (history.isTrying) return 1;
    history.wait = history.pause;
    history.pause = Math.min(2 * history.pause, PAUSE_MAX);
    return 0;
  }

  /** What came of a sequence's part of a step. */
  note(history: DraftHistory, { drafts, more }: StepOutcome): void {
    if (history.wait > 0) {
      history.wait = Math.max(0, history.wait - 1 - more.length);
      history.isTrying = history.wait === 0;
    }
    if (drafts.length === 0) return;
    const right = more.length;
    // Behind the first wrong one nothing is known of any.
    const wrong = right < drafts.length ? 1 : 0;
    const { counts } = this;
    counts.drafts++;
    counts.draft_tokens += drafts.length;
    counts.accepted_tokens += right;
    for (let at = 0; at < right; at++) counts.accepted_at[at] = (counts.accepted_at[at] as number) + 1;
    history.right = history.right * KEPT + right;
    history.wrong = history.wrong * KEPT + wrong;
    this.#right = this.#right * KEPT_OF_ALL + right;
    this.#wrong = this.#wrong * KEPT_OF_ALL + wrong;
    history.isTrying = false;
    if (right > 0) history.pause = PAUSE_MIN;
  }

  #acceptanceOf({ right, wrong }: DraftHistory): number {
    const expected = this.#right / (this.#right + this.#wrong);
    return (right + PRIOR_DRAFTS * expected) / (right + wrong + PRIOR_DRAFTS);
  }

  #worthwhile(acceptance: number, sequences: number): number {
    const { base_us, row_us } = this.costs.line;
    const worth_us = base_us / sequences + row_us;
    const { line: round } = this.rounds;
    const draft_us = row_us + round.row_us + round.base_us / sequences;
    let drafts = 0;
    for (let gain_us = acceptance * worth_us; drafts < this.#drafts_max && gain_us >= draft_us; gain_us *= acceptance) drafts++;
    return drafts;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { ...structuredClone(this.counts), right: this.#right, wrong: this.#wrong, costs: this.costs.toJSON(), rounds: this.rounds.toJSON() };
  }
}
