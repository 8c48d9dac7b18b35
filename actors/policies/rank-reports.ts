/**
 * What the ranks of a DP group report: they run each step as one program (SPMD), so it is done when all of them are, and all must have found the same.
 * The first rank's outcomes count; the others' tokens and digests are held against them.
 * @module
 */
import type { DpGroupMessage } from '../../src/protocol/messages.ts';
import type { StepOutcome } from '../../src/protocol/steps.ts';

export type Report = Omit<Extract<DpGroupMessage, { type: 'STEP_DONE' }>, 'type'>;

export class RankReports {
  readonly #npus: readonly number[];
  /** Of steps that some ranks have done and others have not: the two that may be launched at once, at most. */
  #reports: Report[] = [];
  /** By rank that is to forget all slots: the number of the call that it has not answered; Infinity: it is gone. */
  readonly #dirty = new Map<number, number>();
  #resets = 0;

  constructor(npus: readonly number[]) {
    this.#npus = npus;
  }

  get isAlone(): boolean {
    return this.#npus.length === 1;
  }

  // ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Whether ranks are still at the step, beside the one that reports. */
  othersAreAt({ step }: Report): boolean {
    return this.#npus.length > 1 && this.#reportsOf(step).length + 1 < this.#npus.length;
  }

  /** Whether one that reported the step before found something else. */
  differs({ step, outcomes, digest }: Report): boolean {
    return this.#reports.length > 0 && this.#reportsOf(step).some((other) => other.digest !== digest || !haveSameTokens(other.outcomes, outcomes));
  }

  note(report: Report): void {
    this.#reports.push(report);
  }

  /** What counts of a step, with the last report. */
  take(last: Report): Report {
    if (this.#reports.length === 0) return last;
    const first = this.#reports.find(({ step, npu }) => step === last.step && npu === this.#npus[0]) ?? last;
    this.#reports = this.#reports.filter(({ step }) => step !== last.step);
    return first;
  }

  #reportsOf(step: number): readonly Report[] {
    return this.#reports.filter((report) => report.step === step);
  }

  // ── Beginning anew ────────────────────────────────────────────────────────────────────────────────────────────────

  /** All ranks that live are to forget what they hold; the calls, by NPU. A group of one NPU needs none: it is reset before it says that it failed. */
  resetAll(): readonly { readonly npu: number; readonly reset: number }[] {
    this.#reports = [];
    if (this.isAlone) return [];
    return this.#npus.filter((npu) => this.#dirty.get(npu) !== Number.POSITIVE_INFINITY).map((npu) => this.reset(npu));
  }

  /** One of them is to, which has just come back. */
  reset(npu: number): { readonly npu: number; readonly reset: number } {
    this.#resets++;
    this.#dirty.set(npu, this.#resets);
    return { npu, reset: this.#resets };
  }

  /** It has, if that is the answer to the last call. */
  noteReset(npu: number, reset: number): void {
    if (this.#dirty.get(npu) === reset) this.#dirty.delete(npu);
  }

  lose(npu: number): void {
    this.#dirty.set(npu, Number.POSITIVE_INFINITY);
  }

  get areClean(): boolean {
    return this.#dirty.size === 0;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const dirty = [...this.#dirty].map(([npu, reset]) => ({ npu, reset: Number.isFinite(reset) ? reset : null }));
    return { npus: this.#npus, reports: this.#reports.map(({ npu, step, digest }) => ({ npu, step, digest })), dirty, resets: this.#resets };
  }
}

const haveSameTokens = (a: readonly StepOutcome[], b: readonly StepOutcome[]): boolean =>
  a.length === b.length && a.every((outcome, index) => isSame(outcome, b[index] as StepOutcome));

const isSame = ({ token, more }: StepOutcome, other: StepOutcome): boolean =>
  token === other.token && more.length === other.more.length && more.every((drawn, index) => drawn.token === other.more[index]?.token);
