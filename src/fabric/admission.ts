/**
 * How many choices the pod holds: one count for all job executors, so that the bound is the pod's and none of them is refused while there is room.
 *
 *   | choices in all | of job executor 0 | of 1 | …        what a job executor holds is taken off when it is lost
 *
 * @module
 */
import { assert } from '../protocol/errors.ts';
import type { ControlPage } from './control-page.ts';

const TOTAL = 0;
const FIRST = 1;

export class Admission {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(control: ControlPage) {
    const { words, at } = control.admission;
    this.#words = words;
    this.#at = at;
  }

  get held(): number {
    return Atomics.load(this.#words, this.#at + TOTAL);
  }

  /** Takes room for `choices` of at most `choices_max`; false: there is none. */
  take(jobExecutor: number, choices: number, choices_max: number): boolean {
    // Adding first and taking it back where it was too much would refuse another for a moment who has room.
    for (let held = this.held; held + choices <= choices_max; ) {
      const before = Atomics.compareExchange(this.#words, this.#at + TOTAL, held, held + choices);
      if (before === held) {
        Atomics.add(this.#words, this.#at + FIRST + jobExecutor, choices);
        return true;
      }
      held = before;
    }
    return false;
  }

  release(jobExecutor: number, choices: number): void {
    const before = Atomics.sub(this.#words, this.#at + FIRST + jobExecutor, choices);
    assert(before >= choices, `job executor ${jobExecutor} lets go of ${choices} choices and holds ${before}`);
    Atomics.sub(this.#words, this.#at + TOTAL, choices);
  }

  /** A job executor is lost: what it held is nobody's until it is taken over. */
  forget(jobExecutor: number): void {
    Atomics.sub(this.#words, this.#at + TOTAL, Atomics.exchange(this.#words, this.#at + FIRST + jobExecutor, 0));
  }

  /** Takes what a lost one held, or what goes on after it had ended, whatever the bound: it was let in before, and its records are no more than the bound in all. */
  takeOver(jobExecutor: number, choices: number): void {
    Atomics.add(this.#words, this.#at + FIRST + jobExecutor, choices);
    Atomics.add(this.#words, this.#at + TOTAL, choices);
  }
}
