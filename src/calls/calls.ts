/**
 * The caller's side of a pod, whatever its clock: generations that run, and how they are asked for, cancelled and ended.
 * @module
 */

import type { DeliveredRecords } from '../flowserve/records/delivered-records.ts';
import { checkOptions, type GenerateOptions, generateOptionsSchema, parseOptions, type ResolvedGenerateOptions } from '../options/options.ts';
import type { CallerToPod, GenerateCall, PodToCaller } from '../protocol/caller.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import type { Prompt } from '../protocol/prompt.ts';
import { CALL_IDS, callOf } from '../protocol/request-ids.ts';
import type { Completion, Generation } from '../results.ts';
import type { Clock, Random } from '../runtime/clock.ts';
import { generateCall, promptRecord } from './call.ts';
import { CallCounts } from './call-counts.ts';
import { Delivery } from './delivery.ts';
import { collect, LiveGeneration } from './generation.ts';

export type CallsPorts = {
  readonly clock: Clock;
  readonly random: Random;
  readonly records: DeliveredRecords;
  /** Throws when the message cannot be sent. */
  readonly tell: (message: CallerToPod) => void;
};

/** The id that a call's completion bears. */
export const callId = (call: number): string => `cmpl-${call.toString(16)}`;

export class Calls {
  readonly #ports: CallsPorts;
  readonly counts = new CallCounts();
  readonly #deliveries = new Map<number, Delivery>();
  /** By call, what was asked for and nobody has opened yet. */
  readonly #asked = new Map<number, GenerateCall>();
  /** Until when a call that has a deadline is to be there, by the pod's clock. */
  readonly #over_ms = new Map<number, number>();
  /** Calls that wait for their turn to go on; and the one whose turn it is. */
  #suspects: number[] = [];
  #trial: number | null = null;
  #next = 1;
  #isClosed = false;
  /** What whoever asks afterwards hears. */
  #end = 'the pod is closed';

  constructor(ports: CallsPorts) {
    this.#ports = ports;
  }

  /** Calls that have not ended. */
  get open(): number {
    return this.#deliveries.size;
  }

  /** No open call has had a token: none comes by itself before those that all of them wait for. */
  get isSilent(): boolean {
    for (const { generation } of this.#deliveries.values()) if (generation.hasBegun) return false;
    return true;
  }

  generate(prompt: Prompt, options: GenerateOptions): Generation {
    checkOptions(options, 'generate');
    const { signal, ...rest } = options;
    return this.submit(prompt, parseOptions(generateOptionsSchema, rest, 'generate'), signal);
  }

  /** `model` is the name that the completion bears. */
  async complete(prompt: Prompt, options: GenerateOptions, model: string): Promise<Completion> {
    checkOptions(options, 'complete');
    const { signal, ...rest } = options;
    const resolved = parseOptions(generateOptionsSchema, rest, 'complete');
    return collect(this.submit(prompt, resolved, signal), model, resolved.n);
  }

  submit(prompt: Prompt, options: ResolvedGenerateOptions, signal: AbortSignal | undefined): Generation {
    const record = promptRecord(prompt);
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw new MinipodError('invalid_request', 'signal: must be an AbortSignal', { param: 'signal' });
    const seed = options.seed ?? this.#ports.random.drawSeed();
    const request = this.#newRequest();
    const terms = { id: callId(request), seed, choices: options.n, wantsPromptLogprobs: options.prompt_logprobs !== undefined };
    const generation = new LiveGeneration(terms, {
      clock: this.#ports.clock,
      cancel: () => this.#cancel(request),
      ended: () => signal?.removeEventListener('abort', onAbort),
    });
    const onAbort = (): void => generation.cancel();
    if (this.#isClosed) {
      generation.end(new MinipodError('closed', this.#end));
      return generation;
    }
    if (signal?.aborted === true) {
      generation.end(new MinipodError('cancelled', 'the caller cancelled the request'));
      return generation;
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    const { records, tell } = this.#ports;
    this.#deliveries.set(request, new Delivery(generation, terms, { counts: this.counts, records, tell: (type) => tell({ type, request }) }));
    try {
      const call = generateCall(request, record, options, seed);
      this.#asked.set(request, call);
      if (call.deadline_ms >= 0) this.#over_ms.set(request, this.#ports.clock.now_ms() + call.deadline_ms);
      tell(call);
    } catch (error) {
      this.#forget(request);
      generation.end(error instanceof MinipodError ? error : new MinipodError('internal', `the call could not be sent: ${error}`, { cause: error }));
    }
    return generation;
  }

  /** `group`: the DP group whose output process it comes from; the control thread's comes from none. */
  receive(message: PodToCaller, group = -1): void {
    switch (message.type) {
      case 'CHUNKS':
        for (const chunk of message.chunks) {
          const delivery = this.#deliveries.get(callOf(chunk.request));
          delivery?.push(chunk, group);
          this.#closeIfOver(delivery, chunk.request);
        }
        break;
      case 'PROMPT_LOGPROBS': {
        const delivery = this.#deliveries.get(callOf(message.request));
        delivery?.scorePrompt(message);
        this.#closeIfOver(delivery, message.request);
        break;
      }
      case 'TEXT_FAILED': {
        const delivery = this.#deliveries.get(callOf(message.request));
        delivery?.failText(message.error);
        this.#closeIfOver(delivery, message.request);
        break;
      }
      default: {
        this.#asked.delete(message.request);
        const delivery = this.#deliveries.get(message.request);
        delivery?.hear(message);
        this.#closeIfOver(delivery, message.request);
      }
    }
  }

  /** A worker is lost, and what it had not shown: open calls may miss tokens. */
  losePeer(): void {
    for (const delivery of this.#deliveries.values()) delivery.losePeer();
  }

  /** Called some times a second: calls whose tokens were lost with a worker go on from their records, and those that wait for their turn end when their time is over. */
  look(): void {
    for (const [call, delivery] of [...this.#deliveries]) {
      delivery.look();
      this.#closeIfOver(delivery, call);
    }
    this.#endUntold(this.#suspects);
  }

  /** Where nothing is left to come: as `look`, at once. True: some call goes on, or has ended by it. */
  resumeLost(): boolean {
    let isAny = false;
    for (const [call, delivery] of [...this.#deliveries]) {
      isAny = delivery.resumeLost() || isAny;
      this.#closeIfOver(delivery, call);
    }
    return isAny;
  }

  /**
   * All threads of the pod were lost, and have successors, who know of no call: each goes on there from its record, or is asked for once more. Those that have been
   * through that twice without a token since go on one after the other, each when the one before it has a token or has ended: so what kills costs itself alone.
   */
  goOnAnew(): void {
    const untold = new Set(this.#suspects);
    this.#suspects = [];
    this.#trial = null;
    for (const [call, delivery] of [...this.#deliveries]) {
      delivery.losePod(!untold.has(call));
      if (delivery.isOver) this.#forget(call);
      else if (delivery.isSuspect) this.#suspects.push(call);
      else this.#goOn(call, delivery);
    }
    this.#tryNext();
  }

  /** Nobody is there to go on with any of them, nor to end one: those that need not wait for that end here. */
  endUntold(): void {
    this.#endUntold([...this.#deliveries.keys()]);
  }

  /** Ends what runs with `error`, and lets nothing new in. */
  close(error: MinipodError): void {
    this.#isClosed = true;
    if (error.code !== 'closed') this.#end = `the pod has come to an end by itself: ${error.message}`;
    for (const { generation } of this.#deliveries.values()) generation.end(error);
    this.#deliveries.clear();
    this.#asked.clear();
    this.#over_ms.clear();
    this.#suspects = [];
  }

  #endUntold(calls: readonly number[]): void {
    const now_ms = this.#ports.clock.now_ms();
    for (const call of calls) {
      const delivery = this.#deliveries.get(call);
      delivery?.endUntold((this.#over_ms.get(call) ?? Number.POSITIVE_INFINITY) <= now_ms);
      if (delivery?.isOver === true) this.#forget(call);
    }
  }

  #cancel(request: number): void {
    const delivery = this.#deliveries.get(request);
    delivery?.cancel();
    // Nobody else knows of it.
    if (delivery !== undefined && this.#suspects.includes(request)) this.#goOn(request, delivery);
  }

  #tryNext(): void {
    this.#trial = this.#suspects.shift() ?? null;
    const delivery = this.#trial === null ? undefined : this.#deliveries.get(this.#trial);
    if (this.#trial !== null && delivery !== undefined) this.#goOn(this.#trial, delivery);
  }

  #goOn(call: number, delivery: Delivery): void {
    if (!delivery.goOnAnew()) this.#askAgain(call);
    this.#closeIfOver(delivery, call);
  }

  /** Its time has gone on meanwhile. */
  #askAgain(request: number): void {
    const call = this.#asked.get(request);
    assert(call, `call ${request} is not open, and nobody knows what it was`);
    const { clock, tell } = this.#ports;
    const over_ms = this.#over_ms.get(request);
    tell(over_ms === undefined ? call : { ...call, deadline_ms: Math.max(0, Math.ceil(over_ms - clock.now_ms())) });
  }

  #closeIfOver(delivery: Delivery | undefined, request: number): void {
    if (delivery?.isOver === true) this.#forget(callOf(request));
    else if (this.#trial !== null && callOf(request) === this.#trial && delivery?.isSuspect === false) this.#tryNext();
  }

  #forget(request: number): void {
    this.#deliveries.delete(request);
    this.#asked.delete(request);
    this.#over_ms.delete(request);
    this.#suspects = this.#suspects.filter((suspect) => suspect !== request);
    if (request === this.#trial) this.#tryNext();
  }

  #newRequest(): number {
    for (;;) {
      const request = this.#next;
      this.#next = (this.#next + 1) % CALL_IDS;
      if (!this.#deliveries.has(request)) return request;
    }
  }
}
