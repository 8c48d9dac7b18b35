/**
 * How long an NPU's steps take, and how long it stands still between two of them although somebody waits for the second: what asynchronous scheduling is
 * measured by, and what stragglers show in (xDeepServe §4.4).
 * @module
 */
import type { StepPlan } from '../../protocol/steps.ts';

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

  /** `draft_us`: of its end, for drafts that layers compute; `busy_us`: of the time since the step before, computing for others. */
  add({ entries }: StepPlan, began_us: number, ended_us: number, draft_us: number, busy_us = 0): void {
    let isDecode = true;
    let goesOn = false;
    for (const { tokens, drafts, attach } of entries) {
      isDecode &&= tokens.length === 1 + drafts;
      goesOn ||= attach === null;
    }
    if (isDecode) this.decodes.add(ended_us - began_us);
    if (goesOn) this.gaps.add(began_us - this.#ended_us - busy_us);
    this.last_us = Math.round(ended_us - (goesOn ? this.#ended_us : began_us));
    this.last_draft_us = Math.min(this.last_us, Math.round(draft_us));
    this.#ended_us = ended_us;
  }
}

/** Of the step at hand: when it began, and with its drafts, if it has any; what its host had computed by then, and when the step before had ended. */
type StepAtHand = { readonly times: StepTimes; began_us: number; drafts_us: number; begun_us: number; ended_us: number };

/**
 * Tells what the steps of one host's NPUs take. An NPU whose experts compute for its peers, or whose thread computes for its other NPUs, has no step and does not
 * stand still. Without a clock, on a virtual one, whoever knows says what steps took.
 */
export class StepClock {
  readonly #now_us: (() => number) | null;
  /** By NPU. */
  readonly #steps = new Map<number, StepAtHand>();
  /** In which the host has computed so far; since when it does, and until when it last did. */
  #computed_us = 0;
  #since_us = 0;
  #until_us = 0;

  constructor(now_us: (() => number) | null) {
    this.#now_us = now_us;
  }

  /** What its steps took so far. */
  timesOf(npu: number): StepTimes {
    return this.#stepOf(npu).times;
  }

  /** The host computes from now on. */
  resume(): void {
    if (this.#now_us !== null) this.#since_us = this.#now_us();
  }

  pause(): void {
    if (this.#now_us === null) return;
    this.#until_us = this.#now_us();
    this.#computed_us += this.#until_us - this.#since_us;
  }

  /** With what the host has just begun to compute. */
  begin(npu: number): void {
    const step = this.#stepOf(npu);
    step.began_us = this.#since_us;
    step.begun_us = this.#computed_us;
    step.drafts_us = 0;
  }

  beginDrafts(npu: number): void {
    if (this.#now_us !== null) this.#stepOf(npu).drafts_us = this.#now_us();
  }

  /** With what the host has just computed. */
  end(npu: number, plan: StepPlan): void {
    if (this.#now_us === null) return;
    const step = this.#stepOf(npu);
    const draft_us = step.drafts_us === 0 ? 0 : this.#until_us - step.drafts_us;
    step.times.add(plan, step.began_us, this.#until_us, draft_us, step.begun_us - step.ended_us);
    step.ended_us = this.#computed_us;
  }

  #stepOf(npu: number): StepAtHand {
    let step = this.#steps.get(npu);
    if (step === undefined) {
      step = { times: new StepTimes(), began_us: 0, drafts_us: 0, begun_us: 0, ended_us: 0 };
      this.#steps.set(npu, step);
    }
    return step;
  }
}
