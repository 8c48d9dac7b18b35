/**
 * Follows every request of a trace from its arrival to its end, act by act. What it holds is bounded by the requests that are open.
 * @module
 */
import type { SchedulerLimits } from '../../../actors/policies/scheduler-limits.ts';
import { type Address, idOf, roleOf } from '../../protocol/address.ts';
import type { ErrorRecord } from '../../protocol/errors.ts';
import {
  CHOICES_MAX,
  type DpGroupMessage,
  type JobMessage,
  type RequestMessage,
  type Sequence,
  type TaskMessage,
  type TokenOut,
} from '../../protocol/messages.ts';
import type { ActRecord } from '../act-record.ts';
import type { RunHeader } from '../run-header.ts';
import { ChoiceTrack, keepLongest, type PhaseSlice, requestAddress } from './choice-track.ts';
import { type NpuStep, NpuSteps, type StepEvent, type StepPart } from './npu-steps.ts';
import { type Ending, type LifeEvent, noTime, type PassedOver, type RequestLife, tokenTimes } from './request-life.ts';

export type LivesOptions = {
  /** Whose events are kept, by request id. Default: nobody's. */
  readonly keepsEvents?: (request: number) => boolean;
  readonly onPhase?: (slice: PhaseSlice) => void;
  readonly onStep?: (event: StepEvent) => void;
};

type Track = {
  readonly id: number;
  readonly received_us: number;
  readonly prompt_tokens: number;
  readonly max_tokens: number;
  readonly sequences: readonly Sequence[];
  readonly choices: readonly ChoiceTrack[];
  readonly events: LifeEvent[] | null;
};

/** Gaps of a request that are kept. */
const GAPS_SHOWN = 5;

type Limits = Pick<RunHeader['options'], 'max_batch_tokens' | 'max_batch_requests'>;

export class RequestLives {
  readonly #limits: Limits;
  readonly #options: LivesOptions;
  readonly #steps = new NpuSteps();
  readonly #open = new Map<number, Track>();
  /** By NPU: what its DP group holds, in order of arrival. */
  readonly #held = new Map<number, Set<ChoiceTrack>>();
  /** By NPU: what its DP group goes by. */
  readonly #schedulers = new Map<number, SchedulerLimits>();
  /** By DP group: its first rank, which speaks for all of them; and the others. */
  readonly #firsts = new Map<number, number>();
  readonly #others = new Set<number>();

  constructor(limits: Limits, options: LivesOptions = {}) {
    this.#limits = limits;
    this.#options = options;
  }

  get open(): number {
    return this.#open.size;
  }

  /** The life that ended with this act, if one did. */
  feed(act: ActRecord): RequestLife | null {
    for (const event of this.#steps.feed(act)) this.#step(event);
    const { to, message, time_us } = act;
    if (act.machine === 'dp-group') this.#noteGroup(idOf(to), act.input as { readonly npus: readonly Address[]; readonly limits: SchedulerLimits });
    if (message === null) return null;
    switch (roleOf(to)) {
      case 'request':
        this.#toRequest(act, message as RequestMessage);
        break;
      case 'job':
        this.#toJob(message as JobMessage, time_us);
        break;
      case 'task':
        this.#toTask(act, message as TaskMessage);
        break;
      case 'task-executor':
        if (message.type === 'PLACE') this.#ofTask(message.task, (choice) => (choice.place = { time_us, act: act.number }));
        break;
      case 'dp-group':
        this.#toDpGroup(act, message as DpGroupMessage);
        break;
      case 'frontend':
        if (message.type === 'TOKENS') for (const token of message.tokens) this.#token(token, time_us);
        if (message.type === 'REQUEST_ENDED') return this.#end(idOf(message.request), time_us, message.error);
        break;
    }
    return null;
  }

  #noteGroup(group: number, { npus, limits }: { readonly npus: readonly Address[]; readonly limits: SchedulerLimits }): void {
    const [first = 0, ...others] = npus.map(idOf);
    this.#firsts.set(group, first);
    this.#schedulers.set(first, limits);
    for (const npu of others) this.#others.add(npu);
  }

  #npuOf(group: Address): number {
    return this.#firsts.get(idOf(group)) ?? idOf(group);
  }

  /** Those that had not ended when the trace did, as of `time_us`. */
  unfinished(time_us: number): RequestLife[] {
    return [...this.#open.values()].map((track) => {
      for (const choice of track.choices) choice.close(time_us, 'open');
      return this.#life(track, Math.max(time_us, ...track.choices.map(({ now_us }) => now_us)), 'open', null);
    });
  }

  // ── What is delivered to whom ───────────────────────────────────────────────────────────────────────────────────────

  #toRequest({ to, time_us }: ActRecord, message: RequestMessage): void {
    const id = idOf(to);
    if (message.type === 'SUBMIT') this.#receive(id, message.sequences, time_us);
    const track = this.#open.get(id);
    if (track === undefined) return;
    if (message.type === 'ADMITTED') track.events?.push({ at_us: time_us, choice: null, what: 'admitted' });
    if (message.type === 'REFUSED') track.events?.push({ at_us: time_us, choice: null, what: 'refused', error: message.error });
    if (message.type === 'CANCEL') track.events?.push({ at_us: time_us, choice: null, what: 'cancel_asked' });
  }

  #receive(id: number, sequences: readonly Sequence[], received_us: number): void {
    const onPhase = this.#options.onPhase ?? (() => {});
    const choices = sequences.map(({ request, choice, prompt }) => new ChoiceTrack({ request, choice, prompt_tokens: prompt.length }, received_us, onPhase));
    const [prompt_tokens, max_tokens] = [sequences[0]?.prompt.length ?? 0, sequences[0]?.max_tokens ?? 0];
    const events: LifeEvent[] | null = this.#options.keepsEvents?.(id) ? [] : null;
    events?.push({ at_us: received_us, choice: null, what: 'received', prompt_tokens, max_tokens, choices: choices.length });
    this.#open.set(id, { id, received_us, prompt_tokens, max_tokens, sequences, choices, events });
  }

  #toJob(message: JobMessage, time_us: number): void {
    if (!('task' in message)) return;
    this.#ofTask(message.task, (choice, track) => {
      if (message.type !== 'TASK_DONE' && message.type !== 'TASK_FAILED' && message.type !== 'TASK_CANCELLED') return;
      const ending = message.type === 'TASK_DONE' ? finishOf(choice) : message.type === 'TASK_FAILED' ? 'failed' : 'cancelled';
      this.#leave(choice);
      choice.close(time_us, ending);
      track.events?.push({ at_us: time_us, choice: choice.size.choice, what: 'choice_ended', ending });
    });
  }

  #toTask({ to, time_us, cause }: ActRecord, message: TaskMessage): void {
    this.#ofTask(to, (choice, track) => {
      const note = (event: DistributedOmit<LifeEvent, 'at_us' | 'choice'>): void => {
        track.events?.push({ at_us: time_us, choice: choice.size.choice, ...event } as LifeEvent);
      };
      switch (message.type) {
        case 'PLACED':
          this.#placed(choice, message.dp_group, cause, time_us, note);
          break;
        case 'PREEMPTED':
          choice.preemptions++;
          if (choice.phase === 'waiting') choice.enter('preempted', time_us);
          note({ what: 'preempted' });
          break;
        case 'GENERATED':
          // The step that runs goes on with what has just turned out to be its end.
          this.#drop(choice, track, time_us, 'dropped');
          this.#leave(choice);
          break;
        case 'GENERATION_FAILED':
        case 'EXECUTOR_LOST':
          this.#drop(choice, track, time_us, message.type === 'EXECUTOR_LOST' ? 'lost' : 'dropped');
          this.#leave(choice);
          note({ what: 'failed', error: message.error });
          break;
        case 'STOP_STRING_FOUND':
          choice.letGo(time_us, false);
          if (choice.ending === 'open') choice.ending = 'stop_string';
          note({ what: 'stop_string_found' });
          break;
        case 'CANCEL':
          choice.letGo(time_us, false);
          break;
        case 'ABANDONED':
          this.#leave(choice);
          note({ what: 'let_go' });
          break;
      }
    });
  }

  #drop(choice: ChoiceTrack, track: Track, time_us: number, outcome: 'lost' | 'dropped'): void {
    const dropped = choice.lose(time_us, outcome);
    if (dropped !== null) track.events?.push({ at_us: dropped.at_us, choice: choice.size.choice, what: 'step', ...dropped.share });
  }

  #placed(choice: ChoiceTrack, dp_group: Address, cause: number, time_us: number, note: (event: DistributedOmit<LifeEvent, 'at_us' | 'choice'>) => void): void {
    const npu = this.#npuOf(dp_group);
    choice.npus.push(npu);
    // Placed by another message than its own PLACE: no NPU served, and it waited for one.
    const { place } = choice;
    const waited = place !== null && place.act !== cause;
    if (waited) choice.queuedSince(place.time_us, time_us);
    note({ what: 'placed', npu, waited_for_npu_us: waited ? time_us - place.time_us : 0 });
  }

  #toDpGroup({ to, number, time_us }: ActRecord, message: DpGroupMessage): void {
    if (message.type !== 'ENQUEUE') return;
    this.#ofTask(message.task, (choice, track) => {
      const npu = this.#npuOf(to);
      const held = this.#held.get(npu) ?? new Set();
      this.#held.set(npu, held);
      const running_step = this.#steps.running(npu)?.step ?? null;
      track.events?.push({ at_us: time_us, choice: choice.size.choice, what: 'queued', npu, ahead: held.size, running_step });
      held.add(choice);
      choice.enter('queued', time_us);
      choice.waiting_since_us = time_us;
      choice.waiting_since_act = number;
      choice.passed_over = {};
    });
  }

  #token({ request, choice, token, finish }: TokenOut, time_us: number): void {
    if (token < 0) return;
    const track = this.#open.get(request);
    const of = track?.choices[choice];
    if (of === undefined) return;
    const delivery_us = of.token(time_us);
    if (delivery_us !== null) track?.events?.push({ at_us: time_us, choice, what: 'first_token', delivery_us });
    // Its task may have heard of its end before the frontend had its last token.
    if (finish !== null && (of.ending === 'open' || of.ending === 'finished')) of.ending = finish;
  }

  // ── Steps ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #step(event: StepEvent): void {
    const { step, what } = event;
    this.#options.onStep?.(event);
    // Ranks of a group run the same step.
    if (this.#others.has(step.npu)) return;
    const inStep = new Set<ChoiceTrack>();
    for (const part of step.parts) {
      const track = this.#open.get(part.request);
      const choice = track?.choices[part.choice];
      if (track === undefined || choice === undefined) continue;
      inStep.add(choice);
      if (what === 'ended') {
        const share = choice.endStep(step);
        if (share !== null) track.events?.push({ at_us: step.began_us, choice: part.choice, what: 'step', ...share });
        continue;
      }
      this.#scheduled(choice, track, step, part);
      choice.beginStep(step, part);
    }
    for (const choice of this.#held.get(step.npu) ?? []) {
      if (inStep.has(choice)) continue;
      if (what === 'ended') choice.noteOthers(step);
      else if (isWaiting(choice) && step.cause >= choice.waiting_since_act) {
        const why = this.#whyNot(step, choice);
        choice.passed_over[why] = (choice.passed_over[why] ?? 0) + 1;
      }
    }
  }

  #scheduled(choice: ChoiceTrack, track: Track, step: NpuStep, { attaches, start }: StepPart): void {
    const { phase } = choice;
    // Its PREEMPTED is still on the way to its task.
    if (phase === 'waiting' && attaches) choice.rename('preempted');
    if (phase !== 'queued' && choice.phase !== 'preempted') return;
    const at_us = step.began_us;
    const since_us = phase === 'queued' ? choice.waiting_since_us : choice.phaseBegan_us;
    track.events?.push({
      at_us,
      choice: choice.size.choice,
      what: 'scheduled',
      npu: step.npu,
      waited_us: Math.max(0, at_us - since_us),
      cached_tokens: attaches ? Math.min(start, track.prompt_tokens) : 0,
      others: choice.others,
      passed_over: choice.passed_over,
    });
    choice.passed_over = {};
  }

  #whyNot(step: NpuStep, { size }: ChoiceTrack): PassedOver {
    if (step.tokens >= this.#limits.max_batch_tokens) return 'batch_tokens';
    if (step.parts.length >= this.#limits.max_batch_requests) return 'batch_requests';
    const sequence = this.#open.get(size.request)?.sequences[size.choice];
    return sequence !== undefined && this.#isPrefixUnderWay(step, sequence) ? 'prefix' : 'kv_blocks';
  }

  /** Whether another computes more of the same prefix in this step, or in the one that ran when it was planned, as the scheduler asks it (actors/policies/running-batch.ts). */
  #isPrefixUnderWay({ npu, parts, parts_before }: NpuStep, { prompt, cache_salt, sampling }: Sequence): boolean {
    const scheduler = this.#schedulers.get(npu);
    if (!scheduler?.has_prefix_cache || sampling.prompt_logprobs >= 0) return false;
    const block = scheduler.kv_block_size;
    return [...parts, ...parts_before].some(({ request, choice, kind, start }) => {
      const other = this.#open.get(request)?.sequences[choice];
      if (kind === 'decode' || other === undefined || other.cache_salt !== cache_salt) return false;
      const wanted = (Math.floor(start / block) + 1) * block;
      const isLong = wanted < prompt.length && wanted <= other.prompt.length && start < other.prompt.length - 1;
      return isLong && prompt.slice(0, wanted).every((token, at) => token === other.prompt[at]);
    });
  }

  // ── Ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #leave(choice: ChoiceTrack): void {
    for (const npu of choice.npus) this.#held.get(npu)?.delete(choice);
  }

  #end(id: number, time_us: number, error: ErrorRecord | null): RequestLife | null {
    const track = this.#open.get(id);
    if (track === undefined) return null;
    this.#open.delete(id);
    const ended_us = Math.max(time_us, ...track.choices.map(({ now_us }) => now_us));
    const ending = error === null ? 'finished' : error.code === 'cancelled' ? 'cancelled' : 'failed';
    for (const choice of track.choices) {
      this.#leave(choice);
      choice.close(ended_us, ending === 'finished' ? finishOf(choice) : ending);
    }
    this.#steps.forget(id, track.choices.length);
    track.events?.push({ at_us: ended_us, choice: null, what: 'ended', error });
    return this.#life(track, ended_us, ending, error);
  }

  #life(track: Track, ended_us: number, ending: Ending, error: ErrorRecord | null): RequestLife {
    const choices = track.choices.map((choice) => choice.life());
    const critical = choices.reduce((last, choice) => (choice.ended_us > last.ended_us ? choice : last), choices[0] as (typeof choices)[number]);
    const breakdown_us = { ...noTime(), ...critical.breakdown_us };
    breakdown_us.control += ended_us - critical.ended_us;
    const slowest_gaps = track.choices.flatMap(({ slowest }) => slowest);
    keepLongest(slowest_gaps, GAPS_SHOWN);
    const first = choices.flatMap(({ ttft_us }) => ttft_us ?? []);
    const endings = new Set(choices.map((choice) => choice.ending));
    return {
      request: requestAddress(track.id),
      received_us: track.received_us,
      ended_us,
      total_us: ended_us - track.received_us,
      ending: ending === 'finished' && endings.size === 1 ? critical.ending : ending,
      error,
      prompt_tokens: track.prompt_tokens,
      max_tokens: track.max_tokens,
      tokens: choices.reduce((sum, { tokens }) => sum + tokens, 0),
      ttft_us: first.length === 0 ? null : Math.min(...first),
      tpot_us: tokenTimes(track.choices.flatMap(({ gaps_us }) => gaps_us)),
      delivery_us: tokenTimes(track.choices.flatMap(({ deliveries_us }) => deliveries_us)),
      critical_choice: critical.choice,
      breakdown_us,
      choices,
      slowest_gaps,
      events: (track.events ?? []).toSorted((a, b) => a.at_us - b.at_us),
    };
  }

  #ofTask(task: Address, use: (choice: ChoiceTrack, track: Track) => void): void {
    const id = idOf(task);
    const track = this.#open.get(Math.floor(id / CHOICES_MAX));
    const choice = track?.choices[id % CHOICES_MAX];
    if (track !== undefined && choice !== undefined) use(choice, track);
  }
}

type DistributedOmit<Union, Key extends PropertyKey> = Union extends unknown ? Omit<Union, Key> : never;

const isWaiting = ({ phase }: ChoiceTrack): boolean => phase === 'queued' || phase === 'preempted';

const finishOf = ({ ending }: ChoiceTrack): Ending => (ending === 'open' ? 'finished' : ending);
