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
  /** Of that, computing drafts. */
  last_draft_us = 0;

  /** Of the step at hand: when it began, and, where it computes drafts, when it began with those. */
  began_us = 0;
  drafts_us = 0;

  /** The step at hand. */
  end(plan: StepPlan, ended_us: number): void {
    // Where it has no drafts, an older step had them.
    this.add(plan, this.began_us, ended_us, this.drafts_us < this.began_us ? 0 : ended_us - this.drafts_us);
  }

  /** `draft_us`: of its end, for drafts that layers compute. */
  add({ entries }: StepPlan, began_us: number, ended_us: number, draft_us: number): void {
    let isDecode = true;
    let goesOn = false;
    for (const { tokens, drafts, attach } of entries) {
      isDecode &&= tokens.length === 1 + drafts;
      goesOn ||= attach === null;
    }
    if (isDecode) this.decodes.add(ended_us - began_us);
    if (goesOn) this.gaps.add(began_us - this.#ended_us);
    this.last_us = Math.round(ended_us - (goesOn ? this.#ended_us : began_us));
    this.last_draft_us = Math.min(this.last_us, Math.round(draft_us));
    this.#ended_us = ended_us;
  }
}
