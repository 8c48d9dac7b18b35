/**
 * The caller's side of a pod, whatever its clock: generations that run, and how they are asked for, cancelled and ended.
 * @module
 */
import { generateCall, promptRecord } from './call.ts';
import { collect, LiveGeneration } from './generation.ts';
import { type GenerateOptions, generateOptionsSchema, type Prompt, parseOptions, type ResolvedGenerateOptions } from './options.ts';
import type { CallerToPod, PodToCaller } from './protocol/caller.ts';
import { MinipodError } from './protocol/errors.ts';
import { CALL_IDS } from './protocol/request-ids.ts';
import type { Completion, Generation } from './results.ts';
import type { Clock, Random } from './runtime/clock.ts';

export type CallsPorts = {
  readonly clock: Clock;
  readonly random: Random;
  /** Throws when the message cannot be sent. */
  readonly tell: (message: CallerToPod) => void;
};

export class Calls {
  readonly #ports: CallsPorts;
  readonly #generations = new Map<number, LiveGeneration>();
  #next = 1;
  #isClosed = false;

  constructor(ports: CallsPorts) {
    this.#ports = ports;
  }

  /** Generations that have not ended. */
  get open(): number {
    return this.#generations.size;
  }

  generate(prompt: Prompt, options: GenerateOptions): Generation {
    const { signal, ...rest } = options;
    return this.submit(prompt, parseOptions(generateOptionsSchema, rest, 'generate'), signal);
  }

  /** `model` is the name that the completion bears. */
  async complete(prompt: Prompt, options: GenerateOptions, model: string): Promise<Completion> {
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
    const terms = { id: `cmpl-${request.toString(16)}`, seed, choices: options.n, wantsPromptLogprobs: options.prompt_logprobs !== undefined };
    const generation = new LiveGeneration(terms, {
      clock: this.#ports.clock,
      cancel: () => this.#cancel(request),
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
    this.#generations.set(request, generation);
    try {
      this.#ports.tell(generateCall(request, record, options, seed));
    } catch (error) {
      this.#generations.delete(request);
      generation.end(error instanceof MinipodError ? error : new MinipodError('internal', `the call could not be sent: ${error}`, { cause: error }));
    }
    return generation;
  }

  receive(message: PodToCaller): void {
    if (message.type === 'CHUNKS') {
      for (const chunk of message.chunks) this.#generations.get(chunk.request)?.push(chunk);
      return;
    }
    this.#generations.get(message.request)?.receive(message);
    if (message.type === 'ENDED') this.#generations.delete(message.request);
  }

  /** Ends what runs with `error`, and lets nothing new in. */
  close(error: MinipodError): void {
    this.#isClosed = true;
    for (const generation of this.#generations.values()) generation.end(error);
    this.#generations.clear();
  }

  #newRequest(): number {
    for (;;) {
      const request = this.#next;
      this.#next = (this.#next + 1) % CALL_IDS;
      if (!this.#generations.has(request)) return request;
    }
  }

  #cancel(request: number): void {
    if (this.#generations.has(request)) this.#ports.tell({ type: 'CANCEL_CALL', request });
  }
}
