/**
 * Which tokens an NPU computes next: continuous batching with chunked prefill under a token budget.
 *
 * Running sequences decode first, one token each; what is left of the budget goes to prefill. Among each, and among those who wait, whose turn it is depends
 * on priority and arrival: one of a priority that is lower by 1 is overtaken only by what comes within the next PATIENCE_STEPS steps. So each turn comes,
 * whoever else arrives. When KV blocks run out, the last in turn gives its blocks back and is recomputed later; never the oldest, so that one always gets to
 * its end. What others have computed of the same prefix is not computed again. Since kernels are batch-invariant, none of these choices changes a token.
 * A step may be planned while the one before it runs (step-entry.ts). What would make others give way waits until that has come back, since nobody's blocks
 * can be taken while they are written.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { abandoned, decoding, generated, generationFailed, handedBack, scheduled } from '../../src/protocol/constructors.ts';
import { assert, type ErrorRecord } from '../../src/protocol/errors.ts';
import type { Commands, Handoff, Sequence, Stage } from '../../src/protocol/messages.ts';
import type { StepEntry, StepOutcome } from '../../src/protocol/steps.ts';
import type { Transfer } from '../../src/protocol/transfers.ts';
import { CacheArrivals } from './cache-arrivals.ts';
import { FIRST_CACHE_TRANSFER } from './cache-transfers.ts';
import { Drafting } from './drafting.ts';
import { type Backlog, backlogOf } from './group-status.ts';
import { KvHandoffs } from './kv-handoffs.ts';
import { goBack, LENT_AHEAD, launchMend, nextMend } from './kv-mending.ts';
import { LaunchedSteps } from './launched-steps.ts';
import { type End, OutputReports } from './output-reports.ts';
import { RelationalTensorCache } from './relational-tensor-cache.ts';
import { RoomForSteps } from './room-for-steps.ts';
import { RunningBatch, withTable } from './running-batch.ts';
import { blocksForStep, neverFits, newRunningSequence, outputTokens, type RunningSequence, tokensToLaunch } from './running-sequence.ts';
import { cacheLimits, rankOf, type SchedulerLimits, STEPS_LAUNCHED_MAX } from './scheduler-limits.ts';
import { broughtDrafts, draftRows, draftsFor, noteDrafts } from './step-drafts.ts';
import { type Launched, type Planned, withMask } from './step-entry.ts';
import { launch } from './step-launch.ts';
import { landed, leaveFlight } from './step-results.ts';
import { isBefore, WaitingLine } from './waiting-line.ts';

export class StepScheduler {
  readonly cache: RelationalTensorCache;
  readonly handoffs: KvHandoffs;
  /** Those whose prefix is on its way to them. */
  readonly coming: CacheArrivals;
  readonly drafting: Drafting;
  readonly #limits: SchedulerLimits;
  readonly #output: OutputReports;
  /** All who run or wait. */
  readonly #byTask = new Map<Address, RunningSequence>();
  readonly #waiting = new WaitingLine<RunningSequence>();
  /** Who is over is in none of these, only in steps that have not come back. */
  readonly #running: RunningBatch;
  readonly #room: RoomForSteps;
  readonly #steps = new LaunchedSteps();
  /** Sequences taken in so far. */
  #arrivals = 0;
  #untold: readonly Commands['send'][] = [];
  /** NPUs whose experts the next steps do without. */
  masked: readonly number[] = [];
  tokens_prefilled = 0;
  tokens_decoded = 0;

  constructor(limits: SchedulerLimits, self: Address) {
    this.#limits = limits;
    this.#output = new OutputReports(self);
    this.cache = new RelationalTensorCache(cacheLimits(limits));
    this.coming = new CacheArrivals(this.cache, limits, this.#waiting, self);
    this.#running = new RunningBatch(limits.batch_requests_max);
    this.drafting = new Drafting(limits);
    this.handoffs = new KvHandoffs(this.cache, this.#waiting, self, limits.has_prefix_cache);
    const { cache, coming, handoffs } = this;
    this.#room = new RoomForSteps({ cache, coming, receiving: handoffs.receiving, batch: this.#running, waiting: this.#waiting }, limits.has_prefix_cache);
  }

  /** The last that was planned. */
  get step(): number {
    return this.#steps.last;
  }
  get running(): number {
    return this.#running.size;
  }
  get waiting(): number {
    return this.#waiting.length + this.coming.length + this.handoffs.receiving.arrived;
  }
  get preemptions(): number {
    return this.#room.preemptions;
  }
  /** A step is planned and has not come back. */
  get isStepping(): boolean {
    return this.#steps.count > 0;
  }
  /** A step computes somebody of whom no more is wanted. */
  get isLettingGo(): boolean {
    return this.#steps.isLettingGo;
  }
  /** Somebody waits for a token. */
  get hasWork(): boolean {
    return this.#running.size + this.waiting > 0;
  }
  /** What is still to be prefilled here, and beside how many who decode. */
  get backlog(): Backlog {
    return backlogOf(this.#running, this.#waiting);
  }

  /** Takes a sequence in; refuses one that could never run here. */
  enqueue(task: Address, sequence: Sequence, stage: Stage = 'whole', handoff: Handoff | null = null): readonly Commands['send'][] {
    const refusal = neverFits(sequence, this.cache);
    if (refusal !== null) return [{ to: task, message: generationFailed(refusal) }];
    const rank = rankOf(sequence, stage, this.#steps.total, this.#limits.has_priorities);
    const turn = { rank, arrival: this.#arrivals++, foresight: this.#limits.foresight, foreseers: this.#limits.foreseers };
    const running = newRunningSequence(task, sequence, stage, handoff?.output ?? sequence.output, turn);
    this.#byTask.set(task, running);
    if (handoff === null) this.coming.arrive(running);
    else this.handoffs.receiving.expect(running, handoff);
    return [];
  }

  /** What its prefill has generated, of one that came ahead of that; nothing where it is gone. */
  handOver(task: Address, output: readonly number[], drafts?: readonly number[]): void {
    const running = this.#byTask.get(task);
    if (running !== undefined) this.handoffs.receiving.handedOver(running, output, drafts);
  }

  /** Lets a sequence go: at once, or when the last step or transfer of its blocks has ended, since they are still written or read until then. */
  abandon(task: Address): readonly Commands['send'][] {
    const running = this.#byTask.get(task);
    const isGone = running === undefined || this.#end(running, 'abandoned');
    return this.#output.take(isGone ? [{ to: task, message: abandoned() }] : []);
  }

  /** A stop string has ended it: what of it still flies is for nobody. */
  stop(task: Address): readonly Commands['send'][] {
    const running = this.#byTask.get(task);
    if (running === undefined) return [];
    running.isShown = false;
    this.#end(running, 'told');
    return [{ to: task, message: generated() }];
  }

  /** Nobody is here, nor on the way, nor read by others. */
  get isEmpty(): boolean {
    return this.#byTask.size + this.#steps.count + this.cache.transfers.size + this.coming.wants.size === 0 && !this.handoffs.isUnderWay;
  }
  /** Those whom no step computes, and nobody else may read. */
  get atRest(): readonly RunningSequence[] {
    return [...this.#byTask.values()].filter((running) => running.flights === 0 && !this.handoffs.lending.holds(running));
  }

  /** One at rest goes on elsewhere: with its KV, which is lent until then, or without. */
  giveAway(running: RunningSequence, isLent: boolean): readonly Commands['send'][] {
    const messages: Commands['send'][] = isLent ? [] : [{ to: running.task, message: handedBack(outputTokens(running), null) }];
    this.#output.forget(running);
    if (isLent) this.#lend(running, messages);
    else this.#end(running, 'told');
    return this.#output.take(messages);
  }

  /** The next step, or one ahead of the step that runs; null when there is none to plan now. */
  plan(): Planned | null {
    const isAhead = this.isStepping;
    if (isAhead && (!this.#limits.is_asynchronous || this.#steps.count >= STEPS_LAUNCHED_MAX)) return null;
    const inOrder = this.#running.inOrder();
    if (isAhead && !this.cache.canAllocate(blocksForStep(inOrder, this.#limits.batch_tokens_max, this.cache))) return null;
    const messages: Commands['send'][] = [];
    const entries: StepEntry[] = [];
    const launched: Launched[] = [];
    let budget = this.#limits.batch_tokens_max;
    let isShort = false; // of KV blocks: then nobody new is let in
    let spare = this.drafting.isOn ? draftRows(inOrder, this.waiting, budget) : 0;
    for (const running of inOrder) {
      if (budget === 0) break;
      if (running.slot < 0 || this.#room.giveUpMending(running, this.masked, messages)) continue; // has just given way
      const mend = nextMend(running);
      if (mend !== null) {
        // What it goes on with attends to that.
        const entry = launchMend(running, mend, budget, launched);
        entries.push(entry);
        budget -= entry.tokens.length;
        spare -= entry.tokens.length - 1;
        continue;
      }
      const count = Math.min(tokensToLaunch(running), budget);
      const hasRoom = this.#room.make(running, count, messages);
      isShort ||= !hasRoom || messages.length > 0;
      if (!hasRoom) continue;
      const mayDraft = spare > 0 && count === 1 && !running.mustAttach;
      const drafts = mayDraft ? draftsFor(running, inOrder.length, spare, this.drafting, this.cache) : 0;
      entries.push(this.#launch(running, count, drafts, null, launched));
      spare -= drafts;
      budget -= count + drafts;
    }
    while (budget > 0 && !isShort && this.#running.hasFreeSlot) {
      const waiter = this.#waiting.first;
      const arrived = this.handoffs.receiving.firstArrived;
      const isWaitersTurn = waiter !== undefined && (arrived === null || isBefore(waiter, arrived));
      const count = isWaitersTurn ? this.#admit(waiter, budget) : 0;
      if (count === 'aside') continue;
      const last = this.handoffs.receiving.lastArrived;
      if (isWaitersTurn && count !== 'full' && count > 0) {
        messages.push({ to: waiter.task, message: scheduled() });
        entries.push(this.#launch(waiter, count, 0, waiter.sequence, launched));
        budget -= count;
      } else if (count === 'full' && last !== null) this.#room.takeArrived(last, messages);
      else if (arrived !== null) {
        this.handoffs.receiving.start();
        this.#running.add(arrived);
        arrived.isDecoding = true; // its blocks are there, its next token's too
        messages.push({ to: arrived.task, message: decoding() });
        const rows = Math.min(tokensToLaunch(arrived), budget);
        const drafts = broughtDrafts(arrived, rows, budget - rows, this.#running.size, this.cache);
        entries.push(this.#launch(arrived, rows, drafts, arrived.sequence, launched));
        budget -= rows + drafts;
      } else break;
    }
    const mayWait = isAhead || !this.hasWork || this.handoffs.isUnderWay || this.cache.transfers.size + this.coming.wants.size > 0;
    assert(entries.length > 0 || mayWait, 'sequences wait for a step, and nothing can run');
    this.coming.swapOut();
    if (entries.length === 0) {
      this.#untold = messages;
      return null;
    }
    const { step, after } = this.#steps.launch(launched);
    return { plan: withMask({ step, after, entries, detach: this.takeDetached() }, this.masked, launched), messages };
  }

  /** What to tell tasks though there was no step to plan: who had to give way, and it was not enough. */
  takeUntold(): readonly Commands['send'][] {
    const untold = this.#untold;
    this.#untold = [];
    return untold;
  }

  /** Asks for KV that lies elsewhere, as far as there is room for it. */
  receive(): readonly Commands['send'][] {
    return this.handoffs.receiving.receive(this.#running.size, this.#limits.batch_requests_max - this.#running.size);
  }

  /** Nobody reads what was lent any more, or what was asked for is here, or will not come. `failed`: with which blocks of DRAM gone bad; null: it has not. */
  transferEnded(id: number, failed: readonly number[] | null): readonly Commands['send'][] {
    if (id >= FIRST_CACHE_TRANSFER) {
      this.cache.mapOutDram(failed ?? []);
      this.coming.ended(id, failed === null);
      return [];
    }
    const { over, messages } = this.handoffs.end(id, failed === null);
    if (over !== null && over.slot >= 0) return this.#dropFlight(over);
    if (over !== null && this.#byTask.get(over.task) === over) this.#byTask.delete(over.task);
    return over?.end === 'abandoned' ? [{ to: over.task, message: abandoned() }] : messages;
  }

  /** What is to be moved since this was asked last. */
  takeTransfers(): readonly Transfer[] {
    const ours = this.coming.takeTransfers();
    return ours.length === 0 ? this.handoffs.takeTransfers() : [...ours, ...this.handoffs.takeTransfers()];
  }

  /** Slots that no step names any more. */
  takeDetached(): readonly number[] {
    return this.#running.takeDetached();
  }

  /** What came of the step that ran, which took so long, drafts of that: tokens go to the output process in one message, behind which tasks hear of ends and failures. */
  retire(outcomes: readonly StepOutcome[], us = 0, draft_us = 0): Commands['send'][] {
    const launched = this.#steps.retire(outcomes);
    if (this.drafting.isOn) noteDrafts(this.drafting, launched, outcomes, us, draft_us);
    const messages: Commands['send'][] = [];
    for (let index = 0; index < launched.length; index++) {
      const [entry, outcome] = [launched[index] as Launched, outcomes[index] as StepOutcome];
      const { running, count } = entry;
      const [start, before] = [running.computed, running.tokens.length];
      const end = landed(entry, outcome, this.#output);
      this.tokens_prefilled += Math.max(0, Math.min(count, running.sequence.prompt.length - start));
      this.tokens_decoded += running.tokens.length - before;
      if (running.end !== 'none') messages.push(...this.#dropFlight(running));
      else {
        if (outcome.error === null) this.coming.publish(running, start);
        this.#goOn(running, running.tokens.length > before, end, outcome.error, messages);
      }
    }
    return this.#output.take(messages);
  }

  /** The NPU failed under a step: all that it held fails with it, and so does the step that was to follow. */
  failAll(error: ErrorRecord): readonly Commands['send'][] {
    const messages: Commands['send'][] = [];
    for (const entry of this.#steps.giveUp()) if (leaveFlight(entry).end !== 'none') messages.push(...this.#dropFlight(entry.running));
    for (const running of [...this.#running]) {
      this.#end(running, 'told');
      messages.push({ to: running.task, message: generationFailed(error) });
    }
    this.handoffs.distrust();
    // What it kept lay in the memory that it failed in.
    this.coming.drop();
    this.cache.distrust();
    return this.#output.take(messages);
  }

  /**
   * A step found blocks that do not hold what was written there: it is as if it had not been launched, nor the one that was to follow. The blocks are mapped out,
   * and what lay in them is computed again by whoever runs and holds one, if there is room; who waits with blocks does without.
   */
  mend(damaged: readonly number[]): readonly Commands['send'][] {
    const messages: Commands['send'][] = [];
    for (const entry of this.#steps.giveUp()) if (leaveFlight(entry).end !== 'none') messages.push(...this.#dropFlight(entry.running));
    this.coming.drop();
    this.cache.mapOut(damaged);
    const lost = new Set(damaged);
    for (const running of [...this.#running]) {
      const isLent = this.handoffs.lending.isAhead(running);
      if (isLent || !goBack(running, lost, this.cache)) this.#giveUp(running, isLent ? LENT_AHEAD : null, messages);
    }
    for (const running of this.#byTask.values()) {
      const failure = neverFits(running.sequence, this.cache);
      if (failure !== null) this.#giveUp(running, failure, messages);
    }
    return this.#output.take(messages);
  }

  /** It fails; null: it gives way. */
  #giveUp(running: RunningSequence, error: ErrorRecord | null, messages: Commands['send'][]): void {
    if (error === null) this.#room.preempt(running, messages);
    else {
      this.#end(running, 'told');
      messages.push({ to: running.task, message: generationFailed(error) });
    }
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const { step, tokens_prefilled, tokens_decoded, preemptions, cache } = this;
    const { running, ...slots } = this.#running.toJSON();
    const lists = { running: running.map(withTable), waiting: [...this.#waiting].map(withTable), launched: this.#steps.toJSON(), ...slots };
    const parts = { handoffs: this.handoffs.toJSON(), cache: cache.toJSON(), wants: this.coming.wants.toJSON(), drafting: this.drafting.toJSON() };
    return { step, tokens_prefilled, tokens_decoded, preemptions, ...structuredClone(lists), ...parts, limits: this.#limits };
  }

  #goOn(running: RunningSequence, hasDrawn: boolean, { finish }: End, error: ErrorRecord | null, messages: Commands['send'][]): void {
    if (finish !== null || error !== null) {
      this.#end(running, 'told');
      messages.push({ to: running.task, message: finish === null && error !== null ? generationFailed(error) : generated() });
    } else if (!hasDrawn) return;
    else if (running.stage === 'prefill') this.#lend(running, messages);
    else if (!running.isDecoding) {
      running.isDecoding = true;
      messages.push({ to: running.task, message: decoding() });
    }
  }

  /** Its first token is out: the rest is for a decode executor. */
  #lend(running: RunningSequence, messages: Commands['send'][]): void {
    this.#running.leave(running);
    this.#running.giveSlot(running);
    if (this.handoffs.lending.lend(running, messages)) this.#byTask.delete(running.task);
  }

  /** Lets the first who waits run, with what is known of its prefix. Gives how many of its tokens there is room for; 0 or `full`: it waits on. */
  #admit(next: RunningSequence, budget: number): number | 'aside' | 'full' {
    if (next.stage === 'prefill' && this.handoffs.lent + this.#running.size >= this.#limits.offers_max) return 0;
    const count = this.coming.begin(next, budget, this.#running);
    if (count === 0 || count === 'full') return count;
    this.#waiting.shift();
    if (count !== 'aside') this.#running.add(next);
    return count;
  }

  #launch(running: RunningSequence, count: number, drafts: number, attach: Sequence | null, launched: Launched[]): StepEntry {
    const entry = launch(running, count, drafts, attach, launched, this);
    if (entry.samples && this.#limits.lends_by_layer) this.handoffs.lending.lendAhead(running, this.#steps.next, this.masked.length > 0);
    return entry;
  }

  /** It runs or waits no more. True: nothing of it is left; false: what it holds is let go of when its last step or transfer has ended. */
  #end(running: RunningSequence, end: 'told' | 'abandoned'): boolean {
    running.end = end;
    this.#byTask.delete(running.task);
    this.#output.forget(running);
    const isGone = this.handoffs.giveUp(running);
    if (isGone !== null) return isGone;
    if (running.slot < 0) {
      if (!this.coming.leave(running)) this.#waiting.remove(running);
      return true;
    }
    this.#running.leave(running);
    if (running.flights > 0 || this.handoffs.lending.holds(running)) return false;
    this.#room.letGo(running);
    return true;
  }

  /** A step of one that is over has come back, or what was lent of it. */
  #dropFlight(running: RunningSequence): readonly Commands['send'][] {
    if (running.flights > 0 || this.handoffs.lending.holds(running)) return [];
    this.#room.letGo(running);
    return running.end === 'abandoned' ? [{ to: running.task, message: abandoned() }] : [];
  }
}
