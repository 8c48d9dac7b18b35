/**
 * Which acts have launched an NPU's steps: the one that runs and the one that was launched ahead. What comes of a step is told with its cause.
 * @module
 */
type Launched = { run: number; next: number };

export class StepCauses {
  /** By NPU. */
  readonly #causes = new Map<number, Launched>();

  /** `isAhead`: another step runs. */
  launch(npu: number, cause: number, isAhead: boolean): void {
    const causes = this.#causes.get(npu);
    if (causes === undefined) this.#causes.set(npu, { run: cause, next: 0 });
    else if (isAhead) causes.next = cause;
    else causes.run = cause;
  }

  /** Of the step that ran, which is over. */
  take(npu: number): number {
    const causes = this.#causes.get(npu);
    if (causes === undefined) return 0;
    const { run, next } = causes;
    causes.run = next;
    causes.next = 0;
    return run;
  }

  /** Neither will come to anything. */
  forget(npu: number): void {
    this.#causes.delete(npu);
  }
}
