/**
 * The steps of a DP group that are launched and have not come back: the one that runs, and the one that was planned ahead of its end.
 * @module
 */
import { invariantBroken } from '../../src/protocol/errors.ts';
import type { StepOutcome } from '../../src/protocol/steps.ts';
import { STEPS_LAUNCHED_MAX } from './scheduler-limits.ts';
import type { Launched } from './step-entry.ts';

/** Step numbers travel as int32, and 0 means none: after the last comes 1 again. */
const STEPS = 2 ** 31 - 1;
export const nextStep = (step: number): number => (step % STEPS) + 1;

export class LaunchedSteps {
  /** The one that runs first. */
  #steps: (readonly Launched[])[] = [];
  #last = 0;
  #total = 0;

  /** How many have not come back. */
  get count(): number {
    return this.#steps.length;
  }

  /** The number of the last that was launched. */
  get last(): number {
    return this.#last;
  }

  /** The number that the next one will have. */
  get next(): number {
    return nextStep(this.#last);
  }

  /** So many were launched so far. */
  get total(): number {
    return this.#total;
  }

  /** One of them computes somebody of whom no more is wanted. */
  get isLettingGo(): boolean {
    return this.#steps.some((step) => step.some(({ running }) => running.end !== 'none'));
  }

  /** Its number, and the one of the step that it comes behind; 0: none runs. */
  launch(step: readonly Launched[]): { readonly step: number; readonly after: number } {
    if (this.#steps.length >= STEPS_LAUNCHED_MAX) invariantBroken(`${this.#steps.length} steps are launched, and here is another`);
    const after = this.#steps.length > 0 ? this.#last : 0;
    this.#last = this.next;
    this.#total++;
    this.#steps.push(step);
    return { step: this.#last, after };
  }

  /** The one that ran has come back, with what came of each of its entries. */
  retire(outcomes: readonly StepOutcome[]): readonly Launched[] {
    const [launched = [], next = []] = this.#steps;
    this.#steps[0] = next; // of two at most: to shift a list is code of V8's own, which no cache holds after a step's kernels
    this.#steps.pop();
    if (outcomes.length !== launched.length) invariantBroken(`${outcomes.length} outcomes of ${launched.length} entries`);
    return launched;
  }

  /** None of them will come back: their entries, in order. */
  giveUp(): readonly Launched[] {
    const entries = this.#steps.flat();
    this.#steps = [];
    return entries;
  }

  /** As a snapshot of its owner shows them. */
  toJSON(): object {
    return this.#steps.map((entries) => entries.map(({ running, ...entry }) => ({ task: running.task, ...entry })));
  }
}
