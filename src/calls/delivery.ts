/**
 * What comes of one call, put in order for its caller: the frontend's half on the caller's thread. DP groups stream to it each on a ring of its own, and so does
 * the control thread, so nothing comes in any order but that of one sender.
 *
 *   opened ─▶ delivering ─▶ awaited ─▶ over           awaited: nothing of it is left in the pod, and its last tokens are still on their way
 *                │  ▲ └── or all has come before ──▲    an error ends it at once; one of its text, when it is cancelled
 *                │  └──────── resumed ──┤               resumed: tokens were lost with a worker; it goes on from its record
 *                └─▶ recalled ──────────┘               recalled: decode goes on behind a token that was lost, or from another than its caller has; it is
 *                                                        cancelled, to be resumed
 *
 * Each index of a choice is delivered once: what goes on elsewhere may be computed again from the last token that the caller has, or from before it, and is
 * the same. Once a later owner of the request has spoken, what an earlier one still says is dropped.
 *
 * Not the same is what is computed again without some experts (`degraded`): the later owner goes on from what the caller had when it took over, and the earlier
 * one may tell more before it is let go. Where the two disagree the call is recalled, and resumed from what its caller has:
 *
 *   earlier owner   0 1 2           caller has 0 1 2: the later one's 2' says that what follows is for another beginning
 *   later owner         2'  (3' …)  dropped; resumed: 3 4 …
 *
 * What lies in the ring of a worker that has died is read still (caller-peers.ts). What that worker kept elsewhere is lost, as is all that one has not shown that
 * was given up; and nobody tells whose. A call that has lived through a loss is resumed from its record when in several looks nothing came that it waits for, at
 * its end or while those behind a missing token pile up. Who is resumed for nothing has some tokens computed again, which are the same. Without a loss whatever
 * is late is on its way, and is waited for. On a virtual clock nobody need guess: what waits is resumed where nothing is left to happen. A call fails where there
 * was no room for its record, or where it was moved too often.
 *
 * When all threads of the pod are lost with its control thread, nothing of any call is left: each goes on from its record with their successors, and what the lost
 * ones said counts no more. What nobody had opened yet is asked for once more (calls.ts).
 * @module
 */

import type { DeliveredCall, DeliveredRecords } from '../flowserve/records/delivered-records.ts';
import type { ChunkRecord, FrontendToCaller, OutputToCaller, PositionRecord } from '../protocol/caller.ts';
import { type ErrorRecord, fromErrorRecord } from '../protocol/errors.ts';
import { attemptOf } from '../protocol/request-ids.ts';
import type { CallCounts } from './call-counts.ts';
import { CANCELLED, LATE, LOST_TOO_OFTEN, PODS_MAX, REFUSALS, SCORES_LOST, STRANDED, STRANDED_WITH_POD } from './delivery-errors.ts';
import type { LiveGeneration } from './generation.ts';

type PromptLogprobs = Extract<OutputToCaller, { type: 'PROMPT_LOGPROBS' }>;
/** `group`: the DP group that it comes from. */
type Arrived = { readonly chunk: ChunkRecord; readonly group: number };
type Choice = {
  delivered: number;
  isFinished: boolean;
  /** Some of what was delivered was computed without all experts, and so all that follows hangs on it. */
  isDegraded: boolean;
  /** That its last token came from. */
  group: number | null;
  /** Tokens that overtook those before them, by their index. */
  readonly early: Map<number, Arrived>;
  /** Of `early`, at the latest look. */
  earlySeen: number;
  /** Since its latest token, looks that found more behind a missing one than the look before. */
  looks: number;
};

export type DeliveryPorts = {
  readonly counts: CallCounts;
  readonly records: DeliveredRecords;
  /** To the control thread: nothing more of it is to be computed; the same, since its text cannot be told; or it is to go on from its record. */
  readonly tell: (what: 'CANCEL_CALL' | 'FAIL_CALL' | 'RESUME_CALL') => void;
};

/** Looks after a loss in which what is missing did not come, before it is taken for lost. */
const LOOKS_MAX = 2;
export class Delivery {
  readonly generation: LiveGeneration;
  readonly #ports: DeliveryPorts;
  readonly #choices: readonly Choice[];
  /** Null: it is not open yet, and what has come waits. */
  #record: DeliveredCall | null = null;
  #prompt: readonly number[] = [];
  /** Positions whose log-probabilities are asked for. */
  #promptLogprobs: (PositionRecord | undefined)[] | null;
  #promptMissing = 0;
  #earlyLogprobs: PromptLogprobs[] = [];
  /** Prompt tokens whose KV was there; null: no choice has told yet. */
  #cached: number | null = null;
  /** Of the request's owner, the latest that was heard of. */
  #attempt = 0;
  /** Why it is cancelled though its caller has not asked for that. */
  #textError: ErrorRecord | null = null;
  /** Null: not awaited yet. */
  #looks: number | null = null;
  /** A worker was lost while it was open, maybe with tokens of it. */
  #hasLostPeer = false;
  /** It is cancelled in the pod, to be resumed. */
  #isRecalled = false;
  /** Its caller wants no more of it. */
  #isCancelled = false;
  /** It has a record to go on from. */
  #isRecorded = false;
  /** Since its latest token, control threads that were lost. */
  #podsLost = 0;
  #isOver = false;

  constructor(generation: LiveGeneration, terms: { readonly choices: number; readonly wantsPromptLogprobs: boolean }, ports: DeliveryPorts) {
    this.generation = generation;
    this.#ports = ports;
    this.#choices = Array.from({ length: terms.choices }, () => ({
      ...{ delivered: 0, isFinished: false, isDegraded: false, group: null },
      ...{ early: new Map(), earlySeen: 0, looks: 0 },
    }));
    this.#promptLogprobs = terms.wantsPromptLogprobs ? [] : null;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** What the control thread says of it. */
  hear(message: FrontendToCaller): void {
    switch (message.type) {
      case 'PROMPT':
        this.#open(message.token_ids, message.records);
        this.#endIfWhole();
        break;
      case 'SCHEDULED_CALL':
        this.generation.schedule();
        break;
      case 'ENDED':
        this.#hearEnd(message.error);
        break;
    }
  }

  #hearEnd(error: ErrorRecord | null): void {
    const isRecalled = this.#isRecalled;
    this.#isRecalled = false;
    if (this.#textError !== null) this.#fail(this.#textError);
    else if (error !== null && !(isRecalled && error.code === 'cancelled')) this.#fail(error);
    else this.#looks = 0;
    this.#endIfWhole();
    if (isRecalled && !this.#isOver) this.#resume();
  }

  /** Its caller wants no more of it. */
  cancel(): void {
    this.#isCancelled = true;
    this.#ports.tell('CANCEL_CALL');
  }

  push(chunk: ChunkRecord, group: number): void {
    const choice = this.#choices[chunk.choice];
    const attempt = attemptOf(chunk.request);
    if (choice === undefined || choice.isFinished || attempt < this.#attempt) return;
    if (attempt > this.#attempt) this.#hearOwner(attempt);
    if (this.#looks !== null) this.#looks = 0;
    if (chunk.index < choice.delivered && this.#contradicts(choice, chunk)) {
      this.#hearOwner(attempt + 1);
      this.#recall();
    } else if (chunk.index > choice.delivered || this.#record === null) choice.early.set(chunk.index, { chunk, group });
    else if (chunk.index === choice.delivered) {
      this.#deliver(choice, chunk, group);
      this.#deliverEarly(choice);
    }
    this.#endIfWhole();
  }

  scorePrompt(part: PromptLogprobs): void {
    if (this.#looks !== null) this.#looks = 0;
    if (this.#record === null) this.#earlyLogprobs.push(part);
    else this.#keepLogprobs(part);
    this.#endIfWhole();
  }

  /** Some of its text will not come: it fails, once nothing of it is left in the pod. */
  failText(error: ErrorRecord): void {
    if (this.#looks !== null) this.#fail(error);
    else if (this.#textError === null) {
      this.#textError = error;
      this.#ports.tell('FAIL_CALL');
    }
  }

  /** A worker is lost, and what it had not shown. */
  losePeer(): void {
    this.#hasLostPeer = true;
  }

  /** All threads of the pod are lost, and nothing of it is left there. `isCounted`: they knew of it. It is over, or it is to go on: `goOnAnew`. */
  losePod(isCounted: boolean): void {
    if (isCounted) this.#podsLost++;
    this.#hearOwner(0);
    this.#hasLostPeer = false;
    this.#isRecalled = false;
    this.#earlyLogprobs = [];
    if (this.#textError !== null) this.#fail(this.#textError);
    else if (this.#isCancelled) this.#fail(CANCELLED);
    else if (this.#isWhole) this.#finish();
    else if (this.#podsLost >= PODS_MAX) this.#fail(LOST_TOO_OFTEN);
    else if (this.#record !== null && !this.#isRecorded) this.#fail(STRANDED_WITH_POD);
  }

  /** Nobody is there who could end it: its caller wants no more of it, or it `isLate`. */
  endUntold(isLate: boolean): void {
    if (this.#isCancelled) this.#fail(CANCELLED);
    else if (isLate) this.#fail(LATE);
  }

  /** It has outlived several control threads without a token in between, and may be what kills them. */
  get isSuspect(): boolean {
    return this.#podsLost > 1;
  }

  /** With the threads that are there now, from its record. False: nobody had opened it, and it is to be asked for once more. */
  goOnAnew(): boolean {
    if (this.#isCancelled) this.#fail(CANCELLED);
    else if (this.#record === null) return false;
    else this.#resume();
    return true;
  }

  /** Asked now and then: a call some of whose tokens will not come any more is resumed. */
  look(): void {
    if (!this.#hasLostPeer || this.#isRecalled || this.#isOver) return;
    if (this.#looks !== null) {
      if (this.#looks++ >= LOOKS_MAX) this.#resume();
    } else if (this.#record !== null && this.#lookForGaps()) {
      this.#recall();
    }
  }

  /** Nothing that earlier owners have said counts any more, unless its caller has it: whoever goes on says all that follows. */
  #hearOwner(attempt: number): void {
    this.#attempt = attempt;
    for (const choice of this.#choices) choice.early.clear();
  }

  /** It is computed for its caller in vain: it goes on from another token than the caller has. */
  #contradicts({ isDegraded }: Choice, { choice, index, token_ids, degraded }: ChunkRecord): boolean {
    return (isDegraded || degraded === true) && this.#record?.tokenAt(choice, index) !== token_ids[0];
  }

  /** It is let go of in the pod, to go on from its record. */
  #recall(): void {
    if (this.#looks !== null) this.#resume();
    else if (!this.#isRecalled) {
      this.#isRecalled = true;
      this.#ports.tell('CANCEL_CALL');
    }
  }

  /** Nothing comes any more. True: it was missing tokens, of which some were lost. */
  resumeLost(): boolean {
    if (!this.#hasLostPeer || this.#looks === null || this.#isOver) return false;
    this.#resume();
    return true;
  }

  /** Where nothing comes, somebody may be computing again what is missing: only what goes on beyond it counts. */
  #lookForGaps(): boolean {
    let isStranded = false;
    for (const choice of this.#choices) {
      if (choice.early.size > choice.earlySeen && choice.looks++ >= LOOKS_MAX) isStranded = true;
      choice.earlySeen = choice.early.size;
    }
    return isStranded;
  }

  /** Nothing of it is left in the pod: it goes on from the tokens that its caller has. */
  #resume(): void {
    const error = this.#whyItEnds();
    if (error !== null) {
      this.#fail(error);
      return;
    }
    this.#looks = null;
    for (const choice of this.#choices) choice.looks = 0;
    // Who computes them now lives; what is lost from here on is another loss.
    this.#hasLostPeer = false;
    this.#ports.tell('RESUME_CALL');
  }

  /** Null: it can go on. */
  #whyItEnds(): ErrorRecord | null {
    if (this.#isCancelled) return CANCELLED;
    if (!this.#isRecorded) return STRANDED;
    // The prompt is scored with the first choice, and that is not computed any more.
    return this.#promptMissing > 0 && this.#choices[0]?.isFinished === true ? SCORES_LOST : null;
  }

  #open(prompt: readonly number[], records: readonly number[]): void {
    this.#prompt = prompt;
    this.#record = this.#ports.records.of(records);
    this.#isRecorded = records.length > 0;
    this.generation.begin(prompt);
    if (this.#promptLogprobs !== null) {
      this.#promptMissing = prompt.length - 1;
      if (this.#promptMissing === 0) this.generation.scorePrompt([]);
    }
    for (const part of this.#earlyLogprobs) this.#keepLogprobs(part);
    for (const choice of this.#choices) this.#deliverEarly(choice);
  }

  #deliverEarly(choice: Choice): void {
    if (choice.early.size === 0) return;
    for (let next = choice.early.get(choice.delivered); next !== undefined && !choice.isFinished; next = choice.early.get(choice.delivered)) {
      choice.early.delete(choice.delivered);
      this.#deliver(choice, next.chunk, next.group);
    }
  }

  #deliver(choice: Choice, chunk: ChunkRecord, group: number): void {
    const { counts } = this.#ports;
    if (this.#cached === null) counts.prompt(group, this.#prompt.length);
    if (chunk.index === 0) this.#keepCached(chunk.cached);
    if (choice.group !== group) {
      choice.group = group;
      this.generation.move(chunk.choice, group);
    }
    counts.token(group);
    choice.delivered++;
    choice.isDegraded ||= chunk.degraded === true;
    choice.looks = 0;
    this.#podsLost = 0;
    this.#record?.append(chunk.choice, chunk.token_ids[0] as number, chunk.finish !== null);
    if (chunk.finish !== null) {
      choice.isFinished = true;
      choice.early.clear();
      counts.end(chunk.finish, group);
    }
    // Who goes on from a record is not told so.
    this.generation.push(choice.isDegraded && !chunk.degraded ? { ...chunk, degraded: true } : chunk);
  }

  /** The prompt is one, however many choices continue it: what the first of them found counts, since the others find what it computed too. */
  #keepCached(cached: number): void {
    const known = this.#cached;
    if (known !== null && cached >= known) return;
    this.#cached = cached;
    this.generation.foundCached(cached);
  }

  /** A prompt that is computed again is scored again, with the same bits. */
  #keepLogprobs({ start, logprobs }: PromptLogprobs): void {
    const kept = this.#promptLogprobs;
    if (kept === null || this.#promptMissing === 0) return;
    for (const [index, position] of logprobs.entries()) {
      if (kept[start - 1 + index] === undefined) this.#promptMissing--;
      kept[start - 1 + index] = position;
    }
    if (this.#promptMissing === 0) this.generation.scorePrompt(kept as PositionRecord[]);
  }

  /** Its caller has all of it. */
  get #isWhole(): boolean {
    return this.#promptMissing === 0 && this.#choices.every(({ isFinished }) => isFinished);
  }

  #endIfWhole(): void {
    if (this.#looks !== null && !this.#isOver && this.#isWhole) this.#finish();
  }

  #finish(): void {
    this.#end();
    this.generation.end(null);
  }

  #fail(error: ErrorRecord): void {
    if (this.#isOver) return;
    // One that was refused was never the pod's.
    if (this.#record !== null && !REFUSALS.has(error.code)) {
      const group = this.#choices.find((choice) => choice.group !== null)?.group ?? null;
      this.#ports.counts.end(error.code === 'cancelled' ? 'cancelled' : 'failed', group);
    }
    this.#end();
    this.generation.end(fromErrorRecord(error));
  }

  #end(): void {
    this.#isOver = true;
    this.#record?.close();
  }
}
