/**
 * How many drafts a step verifies for each sequence (xDeepServe §4.6): as many as pay, by what came of those before and by what steps take.
 *
 *   a step of n rows takes      base + row × n                                     of the steps that only decode (decode-costs.ts)
 *   a token is worth            (base + row × s) / s                               with s sequences that decode, none of which drafts
 *   a round of drafts takes     base + row × s                                     where layers compute them: one for each draft, and one more for a second layer
 *   d drafts take               d × row + rounds × (a round) / s                   of each sequence
 *   d drafts bring              acceptance + acceptance ^ 2 + … + acceptance ^ d   tokens
 *
 * A sequence has as many as make a token take the least: (its share of a step + what its drafts take) / (1 + what they bring).
 *
 * A sequence whose drafts do not pay goes on without, and tries one after a while, then after twice as long, and so on; as long as those are right, the next at once.
 * One that begins is expected to be as those before it, and tries one whatever is expected, unless drafts could not pay were all of them right: then nobody tries, until
 * what rows take, which nothing shows without drafts, is forgotten.
 *
 * Each estimate is wrong at times, and tries are lost mostly. So the group keeps account of what drafts took and what the right ones were worth: they may lose a
 * hundredth of its time and no more, whatever the text. Drafts change no token, so all of this is about time alone; on a virtual clock it is the same in each run.
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
  /** So many layers compute them, each in a round of its own before the first draft; missing: one, or they are looked up. */
  readonly foreseers?: number;
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
const PRIOR_DRAFTS = 4;
const FIRST_ACCEPTANCE = 0.75;
const FIRST_WEIGHT = 4;
/** Tokens. */
const PAUSE_MIN = 32;
const PAUSE_MAX = 1_024;
/** One that waits drafts again before its time where so much of a token's time is to be won: that is looked at whenever so many tokens have gone by. */
const RESUME_GAIN = 0.05;
const RESUME_TOKENS = 8;
/** Of the time of decode steps, drafts may lose this; and so many steps more, in which the costs show at first. What they have won bears as many steps as these at most. */
const LOST_SHARE = 0.01;
const LOST_STEPS = 4;
const WON_STEPS = 8;
/** So much of each sum is left after the next step. */
const KEPT_OF_TIME = 0.998;

const NOTHING = { drafts: 0, gain: 0 } as const;

export const newDraftHistory = (): DraftHistory => ({ right: 0, wrong: 0, wait: 0, pause: PAUSE_MIN, isTrying: true });

export class Drafting {
  readonly #drafts_max: number;
  readonly #asPays: boolean;
  readonly #layers: number;
  readonly counts: { -readonly [Count in keyof DraftCounts]: DraftCounts[Count] } & { readonly accepted_at: number[] };
  /** Of all sequences, as in their histories. */
  #right = FIRST_ACCEPTANCE * FIRST_WEIGHT;
  #wrong = (1 - FIRST_ACCEPTANCE) * FIRST_WEIGHT;
  /** What drafts took beyond what they were worth, and what decode steps took; of those of long ago less and less. */
  #lost_us = 0;
  #all_us = 0;
  /** Of steps, without what computes drafts; and of that, a round: a draft of each sequence. Nothing where they are looked up. */
  readonly costs = new DecodeCosts();
  readonly rounds = new DecodeCosts();

  constructor({ drafts_max = 0, drafts_as_pays = true, foreseers = 1 }: DraftLimits) {
    this.#drafts_max = drafts_max;
    this.#asPays = drafts_as_pays;
    this.#layers = foreseers;
    this.counts = { drafts: 0, draft_tokens: 0, accepted_tokens: 0, accepted_at: new Array<number>(drafts_max).fill(0) };
  }

  get isOn(): boolean {
    return this.#drafts_max > 0;
  }

  /** Drafts for the next step of a sequence, one of so many that decode, at most `most`. */
  lengthFor(history: DraftHistory, sequences: number, most: number): number {
    if (!this.#asPays) return Math.min(this.#drafts_max, most);
    if (most === 0 || history.wait % RESUME_TOKENS > 0) return 0;
    const { drafts: worthwhile, gain } = this.#worthwhile(this.#acceptanceOf(history), sequences);
    // What a sequence has stopped for may have been an estimate of the group's that was off.
    if (history.wait > 0 && gain < RESUME_GAIN) return 0;
    if (worthwhile === 0 && this.costs.isKnown && this.#worthwhile(1, sequences).drafts === 0) {
      history.wait = PAUSE_MIN;
      return 0;
    }
    if (worthwhile > 0 || history.isTrying) return this.#mayLose(sequences) ? Math.min(Math.max(worthwhile, 1), most) : 0;
    history.wait = history.pause;
    return 0;
  }

  /** Drafts of a sequence are launched: a try is one step's. */
  launch(history: DraftHistory, drafts: number): void {
    if (drafts > 0) history.isTrying = false;
  }

  /** What came of a sequence's part of a step, one of so many; `launched`: drafts that it might have had. */
  note(history: DraftHistory, { drafts, more }: StepOutcome, launched: number, sequences: number): void {
    if (history.wait > 0) {
      history.wait = Math.max(0, history.wait - 1 - more.length);
      history.isTrying ||= history.wait === 0;
    }
    if (drafts.length === 0) {
      // Nothing was found to try.
      if (launched > 0) this.#tryNow(history);
      return;
    }
    if (this.costs.isKnown) this.#lost_us += drafts.length * this.costs.line.row_us - more.length * this.#worth_us(sequences);
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
    if (right > 0) {
      history.pause = PAUSE_MIN;
      this.#tryNow(history);
    } else history.pause = Math.min(2 * history.pause, PAUSE_MAX);
  }

  /** So many rounds of drafts were computed, each for so many rows, in that time. */
  noteRounds(count: number, rows: number, us: number): void {
    this.rounds.add(rows, us / count);
    // As long as it is a guess what they win, what they take is not held against them.
    if (!this.costs.isKnown) return;
    const { base_us, row_us } = this.rounds.line;
    this.#lost_us += count * (base_us + row_us * rows);
  }

  /** A decode step of so many sequences took so long. */
  noteTime(us: number, sequences: number): void {
    this.#all_us = this.#all_us * KEPT_OF_TIME + us;
    this.#lost_us *= KEPT_OF_TIME;
    if (this.#lost_us < 0) this.#lost_us = Math.max(this.#lost_us, -WON_STEPS * sequences * this.#worth_us(sequences));
  }

  #tryNow(history: DraftHistory): void {
    history.wait = 0;
    history.isTrying = true;
  }

  #mayLose(sequences: number): boolean {
    return this.#lost_us <= LOST_SHARE * this.#all_us + LOST_STEPS * sequences * this.#worth_us(sequences);
  }

  #acceptanceOf({ right, wrong }: DraftHistory): number {
    const expected = this.#right / (this.#right + this.#wrong);
    return (right + PRIOR_DRAFTS * expected) / (right + wrong + PRIOR_DRAFTS);
  }

  #worth_us(sequences: number): number {
    const { base_us, row_us } = this.costs.line;
    return base_us / sequences + row_us;
  }

  /** Rounds in which so many drafts are computed: each layer goes through the rows of the step, then the last one drafts on. */
  roundsFor(drafts: number): number {
    return Math.max(1, drafts) + this.#layers - 1;
  }

  #worthwhile(acceptance: number, sequences: number): { readonly drafts: number; readonly gain: number } {
    // Of what nothing is known yet, one is tried.
    if (this.costs.isEmpty) return NOTHING;
    const { line: round } = this.rounds;
    const round_us = round.row_us + round.base_us / sequences;
    const step_us = this.#worth_us(sequences);
    let [best, best_us] = [0, step_us];
    for (let drafts = 1, tokens = 1, chance = acceptance; drafts <= this.#drafts_max; drafts++, chance *= acceptance) {
      tokens += chance;
      const token_us = (step_us + drafts * this.costs.line.row_us + this.roundsFor(drafts) * round_us) / tokens;
      if (token_us > best_us) continue;
      best = drafts;
      best_us = token_us;
    }
    return { drafts: best, gain: 1 - best_us / step_us };
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const sums = { right: this.#right, wrong: this.#wrong, lost_us: this.#lost_us, all_us: this.#all_us };
    return { ...structuredClone(this.counts), ...sums, costs: this.costs.toJSON(), rounds: this.rounds.toJSON() };
  }
}
