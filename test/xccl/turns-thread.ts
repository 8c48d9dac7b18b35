/**
 * A thread of NPUs whose domains take turns, which looks at them as a worker does (flowserve/npu-worker.ts): only when it has been told that something came for one of
 * their dies. What it is not told of, it never sees.
 */
import type { Rig } from './turns-rig.ts';

export class TurnThread {
  readonly #rig: Rig;
  readonly #npus: readonly number[];
  #seen = 0;
  #mustServe = false;
  #mustPull = false;
  /** NPUs whose step was polled, and waits. */
  readonly #waiting = new Set<number>();
  /** NPUs whose step failed: nobody polls it until it is given up. */
  readonly #failed = new Set<number>();

  constructor(rig: Rig, thread: number, threads: number) {
    this.#rig = rig;
    this.#npus = Array.from({ length: rig.count }, (_, npu) => npu).filter((npu) => npu % threads === thread);
  }

  hasWork(): boolean {
    return this.#mustServe || this.#mustPull || this.#arrivals() !== this.#seen || this.#npus.some((npu) => this.#isNew(npu));
  }

  /** Gives one of its NPUs a step. */
  start(npu: number, number: number): void {
    this.#rig.start(npu, number);
    this.#waiting.delete(npu);
  }

  fail(npu: number): void {
    this.#failed.add(npu);
  }

  giveUp(npu: number): void {
    this.#failed.delete(npu);
    this.#rig.giveUp(npu);
  }

  turn(): void {
    this.#look();
    if (this.#mustServe) {
      this.#mustServe = false;
      for (const npu of this.#npus) this.#mustServe = this.#rig.takePart(npu) || this.#mustServe;
    }
    this.#look();
    const mayPull = this.#mustPull;
    this.#mustPull = false;
    for (const npu of this.#npus) {
      if (!this.#rig.isBusy(npu) || this.#failed.has(npu) || !(mayPull || this.#isNew(npu))) continue;
      this.#waiting.add(npu);
      this.#rig.poll(npu);
    }
  }

  /** Who sits where. */
  hear(npu: number): void {
    this.#rig.reseat(npu);
    this.#mustServe = true;
    this.#mustPull = true;
  }

  #look(): void {
    const arrivals = this.#arrivals();
    if (arrivals === this.#seen) return;
    this.#seen = arrivals;
    this.#mustServe = true;
    this.#mustPull = true;
  }

  #arrivals(): number {
    return this.#npus.reduce((sum, npu) => sum + this.#rig.arrivalsOf(npu), 0);
  }

  /** It has a step that was not polled yet. */
  #isNew(npu: number): boolean {
    return this.#rig.isBusy(npu) && !this.#waiting.has(npu) && !this.#failed.has(npu);
  }
}
