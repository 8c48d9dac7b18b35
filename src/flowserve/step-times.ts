/**
 * How long an NPU's steps take, and how long it stands still between two of them although somebody waits for the second: what asynchronous scheduling is
 * measured by, and what stragglers show in (xDeepServe §4.4).
 * @module
 */
import type { StepPlan } from '../protocol/steps.ts';

/** Entry n counts those under 2ⁿ µs, the last one all others: up to half a second. */
const BUCKETS = 21;

/** Times by powers of two, and their sum. */
export class TimeCounts {
  readonly counts: number[] = new Array(BUCKETS).fill(0);
  sum_us = 0;

  add(us: number): void {
    const bucket = Math.min(BUCKETS - 1, us < 1 ? 0 : 32 - Math.clz32(us));
    this.counts[bucket] = (this.counts[bucket] as number) + 1;
    this.sum_us += us;
  }
}

export class StepTimes {
  /** Of steps that only decode. */
  readonly decodes = new TimeCounts();
  /** Before steps that go on with a sequence of the step before. */
  readonly gaps = new TimeCounts();
  #ended_us = 0;
  /** What the last step took, in whole microseconds, with the gap before it where it goes on with a sequence. */
  last_us = 0;

  add({ entries }: StepPlan, began_us: number, ended_us: number): void {
    let isDecode = true;
    let goesOn = false;
    for (const { tokens, drafts, attach } of entries) {
      isDecode &&= tokens.length === 1 + drafts;
      goesOn ||= attach === null;
    }
    if (isDecode) this.decodes.add(ended_us - began_us);
    if (goesOn) this.gaps.add(began_us - this.#ended_us);
    this.last_us = Math.round(ended_us - (goesOn ? this.#ended_us : began_us));
    this.#ended_us = ended_us;
  }
}
