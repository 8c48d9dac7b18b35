/**
 * Who guesses the tokens that follow, on the NPU (xDeepServe §4.6): the main model verifies the guesses in one pass, so none of them changes a token. A drafter
 * knows what each slot's sequence has, since it is told of every token that a step draws; its guesses for the next step are asked for when that begins.
 * @module
 */
import type { Sequence } from '../../protocol/messages.ts';
import type { StepEntry, StepOutcome, StepPlan } from '../../protocol/steps.ts';
import type { Span } from '../forward/arithmetic.ts';
import type { Part } from '../steps/step-parts.ts';

/**
 * A step that has drawn its tokens. `plan`: with all drafts in it; `spans`: of each entry its last rows, all that it has where the drafter `goesThrough` them;
 * `outcomes`: of its entries, in their order; `isCaptured`: it runs in graph mode. `begin`: called before anything is computed in the places of its rows.
 */
export type DraftedStep = {
  readonly plan: StepPlan;
  readonly spans: readonly Span[];
  readonly rows: number;
  readonly outcomes: readonly StepOutcome[];
  readonly isCaptured: boolean;
  readonly begin: () => void;
};

export interface Drafter {
  /** `output`: tokens that the sequence has already. */
  attach(slot: number, sequence: Sequence, output: readonly number[]): void;
  detach(slot: number): void;
  reset(): void;
  /** A step has drawn a slot's next token. */
  drew(slot: number, token: number): void;
  /** Appends to `drafts` at most `max` tokens that probably follow the last one. Asked twice for one step, it answers the same. */
  draft(slot: number, max: number, drafts: number[]): void;
  /** Its tail goes through all rows that the step has of that entry. */
  goesThrough(entry: StepEntry): boolean;
  /** Parts of a step after those that draw its tokens. Made when the step begins, run when its outcomes are there. */
  tail(step: DraftedStep): readonly Part[];
}
