/**
 * The caller's side of a pod, whatever its clock: generations that run, and how they are asked for, cancelled and ended.
 * @module
 */
import { generateCall, promptRecord } from './call.ts';
import { CallCounts } from './call-counts.ts';
import { Delivery } from './delivery.ts';
import type { DeliveredRecords } from './flowserve/delivered-records.ts';
import { collect, LiveGeneration } from './generation.ts';
import { checkOptions, type GenerateOptions, generateOptionsSchema, parseOptions, type ResolvedGenerateOptions } from './options.ts';
import type { CallerToPod, PodToCaller } from './protocol/caller.ts';
import { MinipodError } from './protocol/errors.ts';
import type { Prompt } from './protocol/prompt.ts';
import { CALL_IDS, callOf } from './protocol/request-ids.ts';
import type { Completion, Generation } from './results.ts';
import type { Clock, Random } from './runtime/clock.ts';

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
  #next = 1;
  #isClosed = false;

  constructor(ports: CallsPorts) {
    this.#ports = ports;
  }

  /** Calls that have not ended. */
  get open(): number {
    return this.#deliveries.size;
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
      cancel: () => this.#deliveries.get(request)?.cancel(),
      ended: () => signal?.removeEventListener('abort', onAbort),
    });
    const onAbort = (): void => generation.cancel();
    if (this.#isClosed) {
      generation.end(new MinipodError('closed', 'the pod is closed'));
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
      this.#ports.tell(generateCall(request, record, options, seed));
    } catch (error) {
      this.#deliveries.delete(request);
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

  /** Called some times a second: calls whose tokens were lost with a worker go on from their records. */
  look(): void {
    for (const [call, delivery] of [...this.#deliveries]) {
      delivery.look();
      this.#closeIfOver(delivery, call);
    }
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

  /** Ends what runs with `error`, and lets nothing new in. */
  close(error: MinipodError): void {
    this.#isClosed = true;
    for (const { generation } of this.#deliveries.values()) generation.end(error);
    this.#deliveries.clear();
  }

  #closeIfOver(delivery: Delivery | undefined, request: number): void {
    if (delivery?.isOver === true) this.#deliveries.delete(callOf(request));
  }

  #newRequest(): number {
    for (;;) {
      const request = this.#next;
      this.#next = (this.#next + 1) % CALL_IDS;
      if (!this.#deliveries.has(request)) return request;
    }
  }
}
