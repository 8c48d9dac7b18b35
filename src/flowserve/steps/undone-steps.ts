/**
 * Steps that are given up for the sake of somebody whom they compute, who may wait no longer: his caller has gone, or his deadline has passed. That is, if they wait
 * for an NPU that is lost, which may be for long; any other step ends by itself soon.
 * The step is as if it had never begun, and is launched anew without him (actors/policies/kv-mending.ts).
 * @module
 */
import { nextStep } from '../../../actors/policies/launched-steps.ts';
import { MinipodError } from '../../protocol/errors.ts';

export class UndoneSteps {
  readonly #npu: number;
  readonly #lookAgain: () => void;
  /** This one, and the one before it, may not wait; 0: all may. */
  #last = 0;

  /** `lookAgain`: a step that waits is looked at although nothing has come for it. */
  constructor(npu: number, lookAgain: () => void) {
    this.#npu = npu;
    this.#lookAgain = lookAgain;
  }

  letGo(step: number): void {
    this.#last = step;
    this.#lookAgain();
  }

  forget(): void {
    this.#last = 0;
  }

  mayWait(step: number): boolean {
    return this.#last === 0 || step === 0 || (step !== this.#last && nextStep(step) !== this.#last);
  }

  /** @throws `undone` */
  check(step: number, missing: readonly number[], lost: ReadonlySet<number>): void {
    if (this.mayWait(step)) return;
    const awaited = missing.filter((npu) => lost.has(npu));
    if (awaited.length > 0)
      throw new MinipodError(
        'undone',
        `step ${step} of NPU ${this.#npu} waits for NPU ${awaited.join(', ')}, which is lost, and somebody in it may wait no longer`,
      );
  }
}
