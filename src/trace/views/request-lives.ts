/**
 * Follows every request of a trace from its arrival to its end, act by act. What it holds is bounded by the requests that are open.
 * @module
 */
import type { SchedulerLimits } from '../../../actors/policies/scheduler-limits.ts';
import { type Address, address, idOf, roleOf } from '../../protocol/address.ts';
import type { ErrorRecord } from '../../protocol/errors.ts';
import {
  choiceOfTask,
  type DpGroupMessage,
  isDecodeTask,
  type JobMessage,
  type RequestMessage,
  type Sequence,
  type TaskMessage,
} from '../../protocol/messages.ts';
import type { TokenOut } from '../../protocol/output.ts';
import { callOf } from '../../protocol/request-ids.ts';
import type { ActRecord } from '../act-record.ts';
import type { RunHeader } from '../run-header.ts';
import { ChoiceTrack, isWaiting, type PhaseSlice, type SequenceSize, waitsForStep } from './choice-track.ts';
import { DpGroups } from './dp-groups.ts';
import { type NpuStep, NpuSteps, type StepEvent, type StepPart } from './npu-steps.ts';
import { whyPassedOver } from './passed-over.ts';
import { RecentActs } from './recent-acts.ts';
import type { LifeEvent, PassedOver, RequestLife, StepShare } from './request-life.ts';
import { endOf, finishOf, lifeOfTrack, type RequestTrack } from './request-track.ts';

export type LivesOptions = {
  /** Whose events are kept, by request id. Default: nobody's. */
  readonly keepsEvents?: (request: number) => boolean;
  readonly onPhase?: (slice: PhaseSlice) => void;
  readonly onStep?: (event: StepEvent) => void;
};

type Limits = Pick<RunHeader['options'], 'max_batch_tokens' | 'max_batch_requests'>;

export class RequestLives {
  readonly #limits: Limits;
  readonly #options: LivesOptions;
  readonly #steps = new NpuSteps();
  readonly #groups = new DpGroups();
  /** When DP groups acted. */
  readonly #acts = new RecentActs();
  /** By call, which an id keeps whoever takes the request over. */
  readonly #open = new Map<number, RequestTrack>();
  /** By DP group: what it holds, in order of arrival. */
  readonly #held = new Map<number, Set<ChoiceTrack>>();
  /** By DP group: what it goes by. */
  readonly #schedulers = new Map<number, SchedulerLimits>();

  constructor(limits: Limits, options: LivesOptions = {}) {
    this.#limits = limits;
    this.#options = options;
  }

  get open(): number {
    return this.#open.size;
  }

  /** The life that ended with this act, if one did. */
  feed(act: ActRecord): RequestLife | null {
    this.#groups.note(act);
    for (const event of this.#steps.feed(act)) this.#step(event);
    const { to, message, time_us } = act;
    if (act.machine === 'dp-group') this.#schedulers.set(idOf(to), (act.input as { readonly limits: SchedulerLimits }).limits);
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
        if (message.type === 'PLACE') this.#ofTask(message.task, (choice) => (choice.place = { time_us, act: act.number, leader: null }));
        if (message.type === 'GROUP_CHOSEN') this.#ofTask(message.task, (choice) => choice.chosenBy(act.from));
        break;
      case 'dp-group':
        this.#acts.note(act, time_us);
        this.#toDpGroup(act, message as DpGroupMessage);
        break;
      case 'output':
      case 'frontend':
        if (message.type === 'TOKENS') for (const token of message.tokens) this.#token(token, time_us);
        if (message.type === 'REQUEST_ENDED') return this.#end(idOf(message.request), time_us, message.error);
        break;
    }
    return null;
  }

  /** Those that had not ended when the trace did, as of `time_us`. */
  unfinished(time_us: number): RequestLife[] {
    return [...this.#open.values()].map((track) => {
      for (const choice of track.choices) choice.close(time_us, 'open');
      return lifeOfTrack(track, Math.max(time_us, ...track.choices.map(({ now_us }) => now_us)), 'open', null);
    });
  }

  // ── What is delivered to whom ───────────────────────────────────────────────────────────────────────────────────────

  #toRequest({ to, time_us }: ActRecord, message: RequestMessage): void {
    const id = idOf(to);
    if (message.type === 'SUBMIT') this.#receive(id, message.sequences, time_us);
    if (message.type === 'RESUME') this.#resume(id, message.sequences, time_us);
    const track = this.#find(id);
    if (track === undefined) return;
    if (message.type === 'REPLACED' && message.error === null) this.#goOn(track, message.sequences, 'executor', time_us);
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
    this.#open.set(callOf(id), { first_id: id, id, moved_to: [], received_us, prompt_tokens, max_tokens, sequences, choices, events });
  }

  /** Its job executor was lost, and this is the next one's. */
  #resume(id: number, sequences: readonly Sequence[], time_us: number): void {
    const track = this.#open.get(callOf(id));
    // The trace does not have its beginning.
    if (track === undefined) return;
    track.id = id;
    track.moved_to.push(id);
    this.#goOn(track, sequences, 'job-executor', time_us);
  }

  /** Those of its choices that are not finished begin anew, behind what their caller has of them. */
  #goOn(track: RequestTrack, sequences: readonly Sequence[], lost: 'executor' | 'job-executor', time_us: number): void {
    for (const choice of track.choices) {
      const sequence = sequences.find((candidate) => candidate.choice === choice.size.choice);
      this.#drop(choice, track, time_us, 'lost');
      this.#leave(choice);
      if (sequence === undefined) {
        choice.close(time_us, finishOf(choice));
        // All that was lost of it was the news that it is done.
        choice.settle(choice.finish ?? 'finished');
        continue;
      }
      choice.reopen(time_us);
      const request = address('request', track.id);
      track.events?.push({ at_us: time_us, choice: choice.size.choice, what: 'goes_on', request, tokens: sequence.output.length, lost });
    }
  }

  #toJob(message: JobMessage, time_us: number): void {
    if (!('task' in message)) return;
    this.#ofTask(message.task, (choice, track) => {
      const { choice: number } = choice.size;
      switch (message.type) {
        case 'TASK_PREFILLED':
          choice.isBetweenTasks = choice.ending === 'open' && choice.tasks.size === 1;
          return;
        case 'DECODE_CHOSEN':
          track.events?.push({ at_us: time_us, choice: number, what: 'decode_chosen', executor: message.executor });
          return;
        case 'TASK_DONE':
        case 'TASK_FAILED':
        case 'TASK_CANCELLED': {
          choice.tasks.delete(message.task);
          // It has another task, or will have.
          if (message.type === 'TASK_DONE' && (choice.tasks.size > 0 || choice.isBetweenTasks)) return;
          const ending = endOf(message.type, choice);
          this.#leave(choice);
          if (choice.close(time_us, ending)) track.events?.push({ at_us: time_us, choice: number, what: 'choice_ended', ending });
        }
      }
    });
  }

  #toTask(act: ActRecord, message: TaskMessage): void {
    const { to, time_us, cause } = act;
    this.#ofTask(to, (choice, track) => {
      const note: Note = (event) => {
        track.events?.push({ at_us: time_us, choice: choice.size.choice, ...event } as LifeEvent);
      };
      switch (message.type) {
        case 'ASSIGN':
          choice.tasks.add(to);
          choice.isBetweenTasks = false;
          break;
        case 'PLACED':
          this.#placed(choice, to, message.dp_group, cause, time_us, note);
          break;
        case 'PREFILLED':
          // Since its step ended; the tokens of that step may still be under way.
          if (choice.phase === 'waiting') choice.rename('transferring');
          this.#leave(choice, to);
          note({ what: 'prefilled', group: this.#groups.groupOf(message.handoff.offer.npu), blocks: message.handoff.offer.blocks.length });
          break;
        case 'RECEIVING':
          this.#receiving(choice, track, act);
          break;
        case 'TRANSFERRED':
          note({ what: 'transferred', group: choice.groups.get(to) ?? 0 });
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
          // Its prefill is done already.
          if (!isDecodeTask(idOf(to)) && (choice.tasks.size > 1 || choice.isBetweenTasks)) break;
          this.#drop(choice, track, time_us, message.type === 'EXECUTOR_LOST' ? 'lost' : 'dropped');
          this.#leave(choice);
          note({ what: 'failed', error: message.error });
          break;
        case 'STOP_STRING_FOUND':
          choice.isBetweenTasks = false;
          choice.letGo(time_us, false);
          choice.stop(track.events, time_us);
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

  #drop(choice: ChoiceTrack, track: RequestTrack, time_us: number, outcome: 'lost' | 'dropped'): void {
    const dropped = choice.lose(time_us, outcome);
    if (dropped !== null) track.events?.push({ at_us: dropped.at_us, choice: choice.size.choice, what: 'step', ...dropped.share });
  }

  #placed(choice: ChoiceTrack, task: Address, dp_group: Address, cause: number, time_us: number, note: Note): void {
    const group = idOf(dp_group);
    const npus = this.#groups.npusOf(group);
    choice.npus.push(npus[0] as number);
    choice.groups.set(task, group);
    // Placed by another message than its own PLACE: it waited for a leader's choice, or no NPU served.
    const { place } = choice;
    const waited = place !== null && place.act !== cause;
    if (waited) choice.queuedSince(place.time_us, time_us);
    note({ what: 'placed', group, npus, waited_us: waited ? time_us - place.time_us : 0, leader: place?.leader ?? null });
  }

  #toDpGroup({ to, number, time_us }: ActRecord, message: DpGroupMessage): void {
    if (message.type === 'STOP_FOUND') this.#ofTask(message.task, (choice, { events }) => choice.stop(events, time_us));
    if (message.type !== 'ENQUEUE') return;
    this.#ofTask(message.task, (choice, track) => {
      const group = idOf(to);
      const held = this.#held.get(group) ?? new Set();
      this.#held.set(group, held);
      const running_step = this.#steps.running(this.#groups.firstNpuOf(group))?.step ?? null;
      const { handoff } = message;
      const at = { at_us: time_us, choice: choice.size.choice, site: this.#groups.siteOf(group), ahead: held.size, running_step };
      track.events?.push({ ...at, what: handoff === null ? 'queued' : 'deferred' });
      held.add(choice);
      choice.enterAfterStep(handoff === null ? 'queued' : 'deferred', time_us);
      choice.handoff = handoff === null ? null : { from: this.#groups.groupOf(handoff.offer.npu), group, blocks: handoff.offer.blocks.length };
      choice.waiting_since_us = time_us;
      choice.waiting_since_act = number;
      choice.passed_over = {};
    });
  }

  /** The group's word that it has asked for KV may come late; since when it had is known. */
  #receiving(choice: ChoiceTrack, { events }: RequestTrack, act: ActRecord): void {
    const at_us = this.#acts.ofCause(act) ?? act.time_us;
    if (choice.nextPhase === 'deferred') choice.enterAfterStep('receiving', at_us);
    if (choice.handoff === null) return;
    const waited_us = Math.max(0, at_us - choice.waiting_since_us);
    events?.push({ at_us, choice: choice.size.choice, what: 'receiving', ...choice.handoff, waited_us });
  }

  #token({ request, choice, index, token, finish }: TokenOut, time_us: number): void {
    const track = this.#find(request);
    const of = track?.choices[choice];
    // What goes on elsewhere may be computed again.
    if (token < 0 || of === undefined || index < of.tokens) return;
    const delivery_us = of.token(time_us);
    if (delivery_us !== null) track?.events?.push({ at_us: time_us, choice, what: 'first_token', delivery_us });
    if (finish !== null) of.finishes(finish);
  }

  // ── Steps ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #step(event: StepEvent): void {
    const { step, what } = event;
    this.#options.onStep?.(event);
    if (!this.#groups.isFirstRank(step.npu)) return;
    const group = this.#groups.groupOf(step.npu);
    const site = this.#groups.siteOf(group);
    const inStep = new Set<ChoiceTrack>();
    for (const part of step.parts) {
      const track = this.#find(part.request);
      const choice = track?.choices[part.choice];
      if (track === undefined || choice === undefined) continue;
      inStep.add(choice);
      if (what === 'ended') {
        const share = choice.endStep(step);
        if (share !== null) track.events?.push({ at_us: step.began_us, choice: part.choice, what: 'step', ...share });
        continue;
      }
      this.#scheduled(choice, track, step, part, { group, site });
      choice.beginStep(step, part, { group, site });
    }
    for (const choice of this.#held.get(group) ?? []) {
      if (inStep.has(choice)) continue;
      if (what === 'ended') choice.noteOthers(step);
      else if (waitsForStep(choice) && step.cause >= choice.waiting_since_act) {
        const why = this.#whyNot(step, group, choice.size);
        choice.passed_over[why] = (choice.passed_over[why] ?? 0) + 1;
      }
    }
  }

  #scheduled(choice: ChoiceTrack, track: RequestTrack, step: NpuStep, { attaches, start, kind }: StepPart, { group, site }: Site): void {
    const { phase } = choice;
    if ((phase === 'deferred' || phase === 'receiving') && kind === 'decode') {
      // The word that its KV was asked for is still on the way to its task.
      if (phase === 'deferred') choice.rename('receiving');
      const waited_us = Math.max(0, step.began_us - choice.phaseBegan_us);
      track.events?.push({ at_us: step.began_us, choice: choice.size.choice, what: 'kv_received', group, site, waited_us });
      return;
    }
    // Its PREEMPTED is still on the way to its task.
    if (phase === 'waiting' && attaches) choice.rename('preempted');
    if (!isWaiting(choice)) return;
    const at_us = step.began_us;
    const since_us = choice.phase === 'preempted' ? choice.phaseBegan_us : choice.waiting_since_us;
    track.events?.push({
      at_us,
      choice: choice.size.choice,
      what: 'scheduled',
      group,
      waited_us: Math.max(0, at_us - since_us),
      cached_tokens: attaches ? Math.min(start, track.prompt_tokens) : 0,
      others: choice.others,
      passed_over: choice.passed_over,
    });
    choice.passed_over = {};
  }

  #whyNot(step: NpuStep, group: number, { request, choice }: SequenceSize): PassedOver {
    const sequence = this.#open.get(callOf(request))?.sequences[choice];
    return whyPassedOver(step, sequence, { ...this.#limits, scheduler: this.#schedulers.get(group) }, (id, choice) => this.#find(id)?.sequences[choice]);
  }

  // ── Ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Its DP groups do not hold it any more; `task`: only that one's. */
  #leave(choice: ChoiceTrack, task?: Address): void {
    for (const [of, group] of choice.groups) if (task === undefined || of === task) this.#held.get(group)?.delete(choice);
  }

  #end(id: number, time_us: number, error: ErrorRecord | null): RequestLife | null {
    const track = this.#find(id);
    if (track === undefined) return null;
    this.#open.delete(callOf(id));
    const ended_us = Math.max(time_us, ...track.choices.map(({ now_us }) => now_us));
    const ending = error === null ? 'finished' : error.code === 'cancelled' ? 'cancelled' : 'failed';
    for (const choice of track.choices) {
      this.#leave(choice);
      choice.close(ended_us, ending === 'finished' ? finishOf(choice) : ending);
      // It was lost when its caller went.
      if (ending === 'cancelled') choice.settle('cancelled');
    }
    for (const known of [track.first_id, ...track.moved_to]) this.#steps.forget(known, track.choices.length);
    track.events?.push({ at_us: ended_us, choice: null, what: 'ended', error });
    return lifeOfTrack(track, ended_us, ending, error);
  }

  #ofTask(task: Address, use: (choice: ChoiceTrack, track: RequestTrack) => void): void {
    const { request, choice: number } = choiceOfTask(idOf(task));
    const track = this.#find(request);
    const choice = track?.choices[number];
    if (track !== undefined && choice !== undefined) use(choice, track);
  }

  /** Under the name that it has now: what comes of an earlier one is for nobody. */
  #find(id: number): RequestTrack | undefined {
    const track = this.#open.get(callOf(id));
    return track?.id === id ? track : undefined;
  }
}

type Site = Pick<StepShare, 'group' | 'site'>;
type Note = (event: DistributedOmit<LifeEvent, 'at_us' | 'choice'>) => void;
type DistributedOmit<Union, Key extends PropertyKey> = Union extends unknown ? Omit<Union, Key> : never;
