/**
 * One choice of an open request: in which phase it is, how long it was in each, and what lay between its tokens.
 * @module
 */
import { type Address, address } from '../../protocol/address.ts';
import { taskAddress } from '../../protocol/constructors.ts';
import type { NpuStep, PartKind, StepPart } from './npu-steps.ts';
import {
  type Breakdown,
  type ChoiceLife,
  type Ending,
  type LifeEvent,
  noTime,
  type OthersSteps,
  type PassedOver,
  PHASES,
  type Phase,
  type StepShare,
  type TokenGap,
  tokenTimes,
} from './request-life.ts';

/** A stretch of one phase; `share` where it is a step. */
export type PhaseSlice = {
  readonly request: number;
  readonly choice: number;
  readonly phase: Phase;
  readonly from_us: number;
  readonly to_us: number;
  readonly share: StepShare | null;
};

export type SequenceSize = { readonly request: number; readonly choice: number; readonly prompt_tokens: number };

/** Gaps of each choice that are kept, the longest. */
const GAPS_KEPT = 5;
/** Other requests that are named where a choice waited for them. */
const OTHERS_NAMED = 4;

const noOthers = (): OthersSteps => ({ steps: 0, us: 0, prefill_tokens: 0, requests: [] });

export class ChoiceTrack {
  readonly size: SequenceSize;
  readonly npus: number[] = [];
  /** DP groups that have it, by task. */
  readonly groups = new Map<Address, number>();
  /** Tasks at work. */
  readonly tasks = new Set<Address>();
  /** Its prefill is done, and no decode task has begun. */
  isBetweenTasks = false;
  readonly gaps_us: number[] = [];
  /** Of each token: from the end of its step to its output process. */
  readonly deliveries_us: number[] = [];
  /** When the steps ended whose tokens have not come yet. */
  readonly #sampled_us: number[] = [];
  readonly slowest: TokenGap[] = [];
  readonly steps: Record<PartKind, number> = { prefill: 0, decode: 0, recompute: 0 };
  readonly #received_us: number;
  readonly #onPhase: (slice: PhaseSlice) => void;
  readonly #sums = noTime();
  #phase: Phase = 'control';
  #phaseBegan_us: number;
  #now_us: number;
  /** Of the current phase, what is in the sums already. */
  #inPhase_us = 0;
  #isEnding = false;
  #isClosed = false;
  #share: StepShare | null = null;
  #afterStep: Phase | null = null;
  #tokens = 0;
  #firstToken_us = -1;
  #lastToken_us = -1;
  #sumsAtToken: Breakdown = noTime();
  #gapStep: StepShare | null = null;
  #others = noOthers();
  /** While it waits to be scheduled: since when, by which act, and why not yet. */
  waiting_since_us = -1;
  waiting_since_act = 0;
  passed_over: Partial<Record<PassedOver, number>> = {};
  /** Of the KV that its decode DP group is given: from which group, how many blocks. */
  handoff: { readonly from: number; readonly group: number; readonly blocks: number } | null = null;
  /** PLACE as its task executor got it; the DP group that has chosen for all. */
  place: { readonly time_us: number; readonly act: number; leader: Address | null } | null = null;
  preemptions = 0;
  ending: Ending = 'open';
  /** What its last token said, or the stop string that was met; null: neither has come. */
  finish: Ending | null = null;

  constructor(size: SequenceSize, received_us: number, onPhase: (slice: PhaseSlice) => void) {
    this.size = size;
    this.#received_us = received_us;
    this.#phaseBegan_us = received_us;
    this.#now_us = received_us;
    this.#onPhase = onPhase;
  }

  get phase(): Phase {
    return this.#phase;
  }
  /** Threads' clocks may differ by a little: time never goes back here. */
  get now_us(): number {
    return this.#now_us;
  }
  get phaseBegan_us(): number {
    return this.#phaseBegan_us;
  }
  get tokens(): number {
    return this.#tokens;
  }
  /** Steps of its NPU without it since its last token, or since it is there. */
  get others(): OthersSteps {
    return { ...this.#others, requests: [...this.#others.requests] };
  }

  chosenBy(leader: Address): void {
    if (this.place !== null) this.place.leader = leader;
  }

  enter(phase: Phase, time_us: number): void {
    if (this.#isClosed || phase === this.#phase) return;
    this.#pass(time_us);
    this.#endSlice();
    this.#phase = phase;
    this.#inPhase_us = 0;
  }

  /** The same, or, where its step still goes on, when that has ended: what decode does by layer ahead of it. */
  enterAfterStep(phase: Phase, time_us: number): void {
    if (this.#share === null) this.enter(phase, time_us);
    else this.#afterStep = phase;
  }

  /** In which it is, or will be when its step has ended. */
  get nextPhase(): Phase {
    return this.#afterStep ?? this.#phase;
  }

  /** It waited for an NPU that serves since `since_us`: that was no control plane. */
  queuedSince(since_us: number, time_us: number): void {
    if (this.#isClosed) return;
    this.#pass(time_us);
    const waited_us = this.#now_us - Math.max(since_us, this.#phaseBegan_us);
    const end_us = this.#now_us;
    this.#now_us -= waited_us;
    this.#sums[this.#phase] -= waited_us;
    this.enter('queued', this.#now_us);
    this.enter('control', end_us);
  }

  /** What it was doing since it entered its phase is called otherwise. */
  rename(phase: Phase): void {
    this.#sums[this.#phase] -= this.#inPhase_us;
    this.#sums[phase] += this.#inPhase_us;
    this.#phase = phase;
  }

  /** Nothing is computed for it any more, but for a step that runs. `isPast`: not since its last step either. */
  letGo(time_us: number, isPast: boolean): void {
    this.#isEnding = true;
    if (this.#share !== null || this.#isClosed) return;
    if (isPast && this.#phase === 'waiting') this.rename('control');
    else this.enter('control', time_us);
  }

  /** Nothing comes of a step that runs: the thread of its NPU has died, or the sequence had ended with the step before. Gives that step, and when it began. */
  lose(time_us: number, outcome: 'lost' | 'dropped'): { readonly at_us: number; readonly share: StepShare } | null {
    if (this.#share === null || this.#isClosed) {
      this.letGo(time_us, outcome === 'dropped');
      return null;
    }
    const at_us = this.#phaseBegan_us;
    const share: StepShare = { ...this.#share, duration_us: Math.max(0, time_us - at_us), outcome };
    this.#share = share;
    this.#isEnding = true;
    this.enter('control', time_us);
    this.#share = null;
    this.#afterStep = null;
    return { at_us, share };
  }

  beginStep(step: NpuStep, part: StepPart, { group, site }: Pick<StepShare, 'group' | 'site'>): void {
    this.enter(part.kind, step.began_us);
    const others = step.parts.filter((other) => other !== part && other.kind !== 'decode');
    this.#share = {
      npu: step.npu,
      group,
      site,
      step: step.step,
      kind: part.kind,
      start: part.start,
      tokens: part.tokens,
      samples: part.samples,
      duration_us: 0,
      sequences: step.parts.length,
      step_tokens: step.tokens,
      others_prefill_tokens: others.reduce((sum, { tokens }) => sum + tokens, 0),
      outcome: 'running',
    };
  }

  /** Its part of the step; null where it was not known to be in it. */
  endStep(step: NpuStep): StepShare | null {
    if (this.#share === null || this.#share.npu !== step.npu || this.#share.step !== step.step || this.#isClosed) return null;
    const share = { ...this.#share, duration_us: step.ended_us - step.began_us, outcome: step.outcome };
    this.#share = share;
    this.steps[share.kind]++;
    if (this.#gapStep === null || share.duration_us > this.#gapStep.duration_us) this.#gapStep = share;
    if (share.samples && share.outcome === 'done') this.#sampled_us.push(step.ended_us);
    this.enter(this.#isEnding ? 'control' : (this.#afterStep ?? 'waiting'), step.ended_us);
    this.#share = null;
    this.#afterStep = null;
    return share;
  }

  /** A step of its NPU that it had no part in. */
  noteOthers(step: NpuStep): void {
    this.#others.steps++;
    this.#others.us += step.ended_us - step.began_us;
    for (const { request, kind, tokens } of step.parts) {
      if (kind !== 'decode') this.#others.prefill_tokens += tokens;
      if (this.#others.requests.length < OTHERS_NAMED && !this.#others.requests.includes(request)) this.#others.requests.push(request);
    }
  }

  /** A token has come to its output process. If it is the first: how long it was on its way, else null. */
  token(time_us: number): number | null {
    const isFirst = this.#tokens++ === 0;
    const sampled_us = this.#sampled_us.shift();
    // It crossed the task's end: of a stop string, or a cancellation.
    if (this.#isClosed) return null;
    const delivery_us = Math.max(0, time_us - (sampled_us ?? time_us));
    this.deliveries_us.push(delivery_us);
    this.#pass(time_us);
    if (isFirst) this.#firstToken_us = this.#now_us;
    else this.#keepGap();
    this.#lastToken_us = this.#now_us;
    this.#sumsAtToken = { ...this.#sums };
    this.#gapStep = null;
    this.#others = noOthers();
    return isFirst ? delivery_us : null;
  }

  /** Its task may have heard of its end before its last token was shown. */
  finishes(finish: Ending): void {
    this.finish ??= finish;
    if (this.ending === 'open' || this.ending === 'finished') this.ending = this.finish;
  }

  /** Its output process has met a stop string. */
  stop(events: LifeEvent[] | null, time_us: number): void {
    this.finishes('stop_string');
    events?.push({ at_us: time_us, choice: this.size.choice, what: 'stop_string_found' });
  }

  /** False: it was closed before. */
  close(time_us: number, ending: Ending): boolean {
    if (this.#isClosed) return false;
    if (this.#phase === 'waiting' && ending !== 'open') this.rename('control');
    this.#pass(time_us);
    this.#endSlice();
    this.ending = ending;
    this.#isClosed = true;
    return true;
  }

  /** That its task has failed was not its end: what computed it was lost, and nobody need go on with it. */
  settle(ending: Ending): void {
    if (this.ending === 'failed') this.ending = ending;
  }

  /** It goes on after all, elsewhere: what was under way of it comes no more. */
  reopen(time_us: number): void {
    if (this.#isClosed) {
      this.#isClosed = false;
      this.#phase = 'control';
      this.#inPhase_us = 0;
      this.#pass(time_us);
    } else this.enter('control', time_us);
    this.#isEnding = false;
    this.#sampled_us.length = 0;
    this.ending = 'open';
    this.tasks.clear();
    this.groups.clear();
    this.isBetweenTasks = false;
  }

  life(): ChoiceLife {
    return {
      choice: this.size.choice,
      task: taskAddress(this.size),
      npus: this.npus,
      ended_us: this.#now_us,
      ending: this.ending,
      tokens: this.#tokens,
      preemptions: this.preemptions,
      steps: this.steps,
      ttft_us: this.#firstToken_us < 0 ? null : this.#firstToken_us - this.#received_us,
      tpot_us: tokenTimes(this.gaps_us),
      delivery_us: tokenTimes(this.deliveries_us),
      breakdown_us: this.#sums,
    };
  }

  #pass(time_us: number): void {
    const passed_us = Math.max(0, time_us - this.#now_us);
    this.#now_us += passed_us;
    this.#inPhase_us += passed_us;
    this.#sums[this.#phase] += passed_us;
  }

  #endSlice(): void {
    const { request, choice } = this.size;
    this.#onPhase({ request, choice, phase: this.#phase, from_us: this.#phaseBegan_us, to_us: this.#now_us, share: this.#share });
    this.#phaseBegan_us = this.#now_us;
  }

  #keepGap(): void {
    const duration_us = this.#now_us - this.#lastToken_us;
    this.gaps_us.push(duration_us);
    if (this.slowest.length === GAPS_KEPT && duration_us <= (this.slowest.at(-1)?.duration_us ?? 0)) return;
    const breakdown_us = noTime();
    for (const phase of PHASES) breakdown_us[phase] = this.#sums[phase] - this.#sumsAtToken[phase];
    const { choice } = this.size;
    this.slowest.push({ choice, token: this.#tokens, from_us: this.#lastToken_us, duration_us, breakdown_us, step: this.#gapStep, others: this.#others });
    keepLongest(this.slowest, GAPS_KEPT);
  }
}

/** Longest first, and of equal ones the earlier. */
export function keepLongest(gaps: TokenGap[], count: number): void {
  gaps.sort((a, b) => b.duration_us - a.duration_us || a.from_us - b.from_us || a.choice - b.choice);
  gaps.splice(count);
}

export const requestAddress = (request: number) => address('request', request);

export const waitsForStep = ({ phase }: ChoiceTrack): boolean => phase === 'queued' || phase === 'preempted';
/** Also for KV that did not come, and is computed here now. */
export const isWaiting = (choice: ChoiceTrack): boolean => waitsForStep(choice) || choice.phase === 'deferred' || choice.phase === 'receiving';
