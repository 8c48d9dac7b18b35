/**
 * The frontend at work on the control thread: calls come in and become requests. It is the hand of the address `frontend/0`, no actor: it decides nothing.
 * Text goes out elsewhere: from each DP group's output process to the frontend's other half, on the caller's thread.
 * @module
 */
import { PrefixMarks, prefixMarks } from '../../../actors/policies/prefix-marks.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Tokenizer } from '../../model/tokenizer.ts';
import { type Address, address, idOf } from '../../protocol/address.ts';
import type { CallerToPod, FrontendToCaller, GenerateCall, PromptRecord } from '../../protocol/caller.ts';
import { cancel, dropCache, fail, goOn, submit } from '../../protocol/constructors.ts';
import type { MemberLife } from '../../protocol/controllers.ts';
import { assert, type ErrorRecord, toErrorRecord } from '../../protocol/errors.ts';
import { requestsCome } from '../../protocol/heartbeats.ts';
import type { FrontendMessage, Message, RequestMessage, Sampling } from '../../protocol/messages.ts';
import type { HeldPrefix } from '../../protocol/prefix-sharing.ts';
import { attemptOf, callOf, requestId } from '../../protocol/request-ids.ts';
import type { Random } from '../../runtime/clock.ts';
import { notKept } from '../records/record-taking.ts';
import type { RequestRecords } from '../records/request-records.ts';
import { Contexts } from './contexts.ts';
import { checkRank, contextTokens, sequencesOf, tokenize } from './frontend.ts';

export const FRONTEND: Address = 'frontend/0';

/** Each stands for 32 tokens of a prompt: two million tokens. */
const MARKS_MAX = 65_536;
/** So many requests that ended last are remembered: word of a prompt that comes later still is lost, and a guess with it. */
const ENDED_MARKS_MAX = 64;

/** What exactly, the caller's thread knows; it may quote the text, which is not for traces. */
const UNTOLD: ErrorRecord = { code: 'internal', message: "the reply's text could not be parsed", param: null };

/** While requests come, the cluster manager that leads hears so at least as often as its beats last that follow (actors/cluster-manager.ts). */
const TOLD_EVERY_MS = 250;

/** The cause of what callers ask for. */
const FROM_OUTSIDE = 0;

export type FrontendPorts = {
  /** Positions that the KV blocks of an NPU hold. */
  readonly kv_positions: number;
  readonly random: Random;
  readonly records: RequestRecords;
  /** Whether a job executor is in that life still. What is sent to one that is not finds nobody. */
  readonly isAlive: (jobExecutor: Address, life: number) => boolean;
  readonly send: (to: Address, from: Address, message: Message, cause: number) => void;
  readonly tellCaller: (message: FrontendToCaller) => void;
  readonly now_ms: () => number;
  /** DP groups in which requests begin. */
  readonly firstGroups: readonly number[];
  /** Whether they take prefixes from one another. */
  readonly shares_prefixes: boolean;
  /** Throws `invalid_request` for what the arithmetic at hand cannot do. */
  readonly checkSampling?: (sampling: Sampling) => void;
};

type OpenRequest = {
  /** Under which it goes on. */
  id: number;
  /** What it was told, when nothing more of it was wanted. */
  ending: RequestMessage | null;
  /** Of its prompt. */
  readonly marks: readonly number[];
  /** Of one that has no record: the job executor that it lives and dies with. */
  readonly unrecorded: MemberLife | null;
};

export class FrontendProcess {
  readonly contexts: Contexts;
  readonly #config: ModelConfig;
  readonly #tokenizer: Tokenizer;
  readonly #ports: FrontendPorts;
  /** Which group has computed which prompts: all requests pass here, so a new one is told who probably has its beginning. A guess, that may be wrong. */
  readonly #held = new PrefixMarks(MARKS_MAX);
  /** Who takes requests, as the leading cluster manager says. */
  #serving: readonly MemberLife[] = [];
  #term = 0;
  /** Of the cluster managers; and when it was told of requests last. */
  #leader: Address | null = null;
  #told_ms = Number.NEGATIVE_INFINITY;
  /** By call. */
  readonly #requests = new Map<number, OpenRequest>();
  /** By call, the marks of those that have ended of late: that their prompts were computed comes from another thread than their end, and may come later. */
  readonly #endedMarks = new Map<number, readonly number[]>();

  constructor(config: ModelConfig, tokenizer: Tokenizer, ports: FrontendPorts) {
    this.#config = config;
    this.#tokenizer = tokenizer;
    this.#ports = ports;
    this.contexts = new Contexts({
      tokensOf: ({ prompt, add_special_tokens }) => contextTokens(prompt, add_special_tokens, config, tokenizer),
      now_ms: ports.now_ms,
      tellGroups: (message) => {
        for (const group of ports.firstGroups) ports.send(address('dp-group', group), FRONTEND, message, FROM_OUTSIDE);
      },
    });
  }

  receiveCaller(message: CallerToPod): void {
    switch (message.type) {
      case 'GENERATE':
        this.#open(message);
        break;
      case 'CANCEL_CALL':
        this.#tellToEnd(message.request, cancel());
        break;
      case 'FAIL_CALL':
        this.#tellToEnd(message.request, fail(UNTOLD));
        break;
      case 'RESUME_CALL':
        this.#reopen(message.request);
        break;
    }
  }

  receive(message: FrontendMessage, from: Address): void {
    switch (message.type) {
      case 'REQUEST_RUNNING':
        this.#ports.tellCaller({ type: 'SCHEDULED_CALL', request: callOf(idOf(message.request)) });
        break;
      case 'PROMPT_COMPUTED':
        this.#held.add(idOf(from), this.#marksOf(callOf(idOf(message.request))));
        break;
      case 'REQUEST_MOVED':
        this.#move(idOf(message.request));
        break;
      case 'REQUEST_ENDED':
        this.#end(idOf(message.request), message.error);
        break;
      case 'JOB_EXECUTORS':
        // One who led before, and does not know that it no longer does, is not listened to.
        if (message.term < this.#term) break;
        this.#term = message.term;
        this.#serving = message.serving;
        this.#leader = from;
        this.#endUnrecorded();
        break;
    }
  }

  /** What request records hold. */
  get recordsUsed(): RequestRecords['used'] {
    return this.#ports.records.used;
  }

  /** Job executors that take requests. */
  get jobExecutors(): readonly MemberLife[] {
    return this.#serving;
  }

  /** By call, the ids of those that have not ended. */
  get open(): ReadonlyMap<number, Pick<OpenRequest, 'id'>> {
    return this.#requests;
  }

  cancelAll(): void {
    for (const call of this.#requests.keys()) this.#tellToEnd(call, cancel());
  }

  /** Requests that come after this find nothing that was computed before. */
  resetPrefixCache(groups: Iterable<number>): void {
    for (const group of groups) {
      this.#held.forget(group);
      this.#ports.send(address('dp-group', group), FRONTEND, dropCache(), FROM_OUTSIDE);
    }
  }

  tokenize(prompt: PromptRecord, addSpecialTokens: boolean): { token_ids: number[]; tokens: string[] } {
    const token_ids = [...tokenize(prompt, addSpecialTokens, this.#config, this.#tokenizer)];
    return { token_ids, tokens: token_ids.map((id) => this.#tokenizer.tokenText(id)) };
  }

  detokenize(ids: readonly number[], skipSpecialTokens: boolean): string {
    return this.#tokenizer.decode(ids, { skipSpecialTokens });
  }

  #open(call: GenerateCall): void {
    try {
      this.#ports.checkSampling?.(call.sampling);
      checkRank(call.data_parallel_rank, this.#ports.firstGroups);
      this.contexts.forgetOver();
      const context = call.context_id === '' ? null : this.contexts.get(call.context_id, call.cache_salt);
      const unowned = sequencesOf(call, context, this.#config, this.#tokenizer, this.#ports.kv_positions);
      const { member, life } = this.#pick();
      const id = requestId(idOf(member), 0, call.request);
      const [first] = unowned;
      assert(first, 'a call has a choice');
      const marks = this.#ports.shares_prefixes ? prefixMarks(first.cache_salt, first.prompt) : [];
      const held = this.#holderOf(marks);
      const sequences = unowned.map((sequence) => ({ ...sequence, request: id, held }));
      // Without room for its record it is served all the same, as long as its job executor lives.
      const records = this.#ports.records.open(sequences, life, call.deadline_ms < 0 ? call.deadline_ms : this.#ports.now_ms() + call.deadline_ms);
      this.#requests.set(call.request, { id, ending: null, marks, unrecorded: records.length === 0 ? { member, life } : null });
      this.#ports.tellCaller({ type: 'PROMPT', request: call.request, token_ids: first.prompt, records });
      this.#ports.send(address('request', id), FRONTEND, submit(sequences, call.deadline_ms), FROM_OUTSIDE);
      this.#tellLeader();
    } catch (error) {
      this.#ports.tellCaller({ type: 'ENDED', request: call.request, error: toErrorRecord(error) });
    }
  }

  /** Whoever is to take it in must prove that he lives, perhaps after a long rest. */
  #tellLeader(): void {
    const now_ms = this.#ports.now_ms();
    if (this.#leader === null || now_ms - this.#told_ms < TOLD_EVERY_MS) return;
    this.#told_ms = now_ms;
    this.#ports.send(this.#leader, FRONTEND, requestsCome(), FROM_OUTSIDE);
  }

  /** It goes on from its record, wherever there is room: what it held before it ended is another's by now. */
  #reopen(call: number): void {
    try {
      const { member, life } = this.#pick();
      const id = this.#ports.records.reopen(call, { job_executor: idOf(member), life });
      this.#requests.set(call, { id, ending: null, marks: [], unrecorded: null });
      this.#ports.send(member, FRONTEND, goOn(address('request', id)), FROM_OUTSIDE);
      this.#tellLeader();
    } catch (error) {
      this.#ports.tellCaller({ type: 'ENDED', request: call, error: toErrorRecord(error) });
    }
  }

  /** Nobody takes over what was never recorded: when its job executor is lost, its caller hears so from here alone. */
  #endUnrecorded(): void {
    for (const [call, { unrecorded }] of this.#requests) {
      if (unrecorded === null || this.#ports.isAlive(unrecorded.member, unrecorded.life)) continue;
      this.#requests.delete(call);
      this.#ports.tellCaller({ type: 'ENDED', request: call, error: notKept('job executor') });
    }
  }

  #marksOf(call: number): readonly number[] {
    return this.#requests.get(call)?.marks ?? this.#endedMarks.get(call) ?? [];
  }

  #keepMarks(call: number, marks: readonly number[]): void {
    if (marks.length === 0) return;
    this.#endedMarks.set(call, marks);
    for (const oldest of this.#endedMarks.keys()) {
      if (this.#endedMarks.size <= ENDED_MARKS_MAX) break;
      this.#endedMarks.delete(oldest);
    }
  }

  #holderOf(marks: readonly number[]): HeldPrefix | null {
    return this.#ports.shares_prefixes ? this.#held.holderOf(marks) : null;
  }

  /** Any that serves (xDeepServe §5.1, step 1). One whose thread is gone already may not be known to be lost yet. */
  #pick(): MemberLife {
    const { random, isAlive } = this.#ports;
    const serving = this.#serving.filter(({ member, life }) => isAlive(member, life));
    const picked = serving[serving.length < 2 ? 0 : random.below(serving.length)];
    assert(picked, 'no job executor serves');
    return picked;
  }

  #tellToEnd(call: number, ending: RequestMessage): void {
    const request = this.#requests.get(call);
    if (request === undefined) return;
    request.ending = ending;
    this.#ports.send(address('request', request.id), FRONTEND, ending, FROM_OUTSIDE);
  }

  /** Its job executor was lost, and another goes on with it. What was sent to the lost one may have found nobody. */
  #move(id: number): void {
    const request = this.#requests.get(callOf(id));
    if (request === undefined) return;
    request.id = id;
    if (request.ending !== null) this.#tellToEnd(callOf(id), request.ending);
  }

  #end(id: number, error: ErrorRecord | null): void {
    const call = callOf(id);
    const request = this.#requests.get(call);
    // What became of an attempt that another has taken over is no news.
    if (request === undefined || attemptOf(id) < attemptOf(request.id)) return;
    this.#requests.delete(call);
    this.#keepMarks(call, request.marks);
    this.#ports.tellCaller({ type: 'ENDED', request: call, error });
  }
}
