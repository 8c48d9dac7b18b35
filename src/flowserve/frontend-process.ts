/**
 * The frontend at work: calls come in and become requests, tokens go out as text. It is the hand of the address `frontend/0`, no actor: it decides nothing.
 * @module
 */
import type { ModelConfig } from '../model/config.ts';
import type { Tokenizer } from '../model/tokenizer.ts';
import { type Address, address, idOf } from '../protocol/address.ts';
import type { CallerToPod, GenerateCall, PodToCaller, PromptRecord } from '../protocol/caller.ts';
import { cancel, choiceStopped, dropCache, submit } from '../protocol/constructors.ts';
import { toErrorRecord } from '../protocol/errors.ts';
import type { FrontendMessage, Message, Sampling } from '../protocol/messages.ts';
import { Contexts } from './contexts.ts';
import { checkLength, checkRank, contextTokens, sequencesOf } from './frontend.ts';
import { type Counts, OutputProcess } from './output-process.ts';

export const FRONTEND: Address = 'frontend/0';

/** The cause of what callers ask for. */
const FROM_OUTSIDE = 0;

export type FrontendPorts = {
  readonly send: (to: Address, from: Address, message: Message, cause: number) => void;
  readonly tellCaller: (message: PodToCaller) => void;
  readonly now_ms: () => number;
  /** DP groups in which requests begin. */
  readonly firstGroups: readonly number[];
  /** Throws `invalid_request` for what the arithmetic at hand cannot do. */
  readonly checkSampling?: (sampling: Sampling) => void;
};

/** What came and went so far. */
export type FrontendReport = Counts & {
  readonly requests_open: number;
  /** By DP group, of those that have answered. */
  readonly groups: ReadonlyMap<number, Counts>;
};

export class FrontendProcess {
  readonly output: OutputProcess;
  readonly contexts: Contexts;
  readonly #config: ModelConfig;
  readonly #tokenizer: Tokenizer;
  readonly #ports: FrontendPorts;
  #cause = FROM_OUTSIDE;

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
    this.output = new OutputProcess(tokenizer, config.eosTokenIds, {
      tell: ports.tellCaller,
      stopChoice: ({ request, choice }) => ports.send(address('job', request), FRONTEND, choiceStopped(choice), this.#cause),
    });
  }

  receiveCaller(message: CallerToPod): void {
    if (message.type === 'GENERATE') this.#open(message);
    else if (this.output.has(message.request)) this.#cancel(message.request);
  }

  /** `act`: the delivery, the cause of what follows. */
  receive(message: FrontendMessage, from: Address, act: number): void {
    this.#cause = act;
    switch (message.type) {
      case 'TOKENS':
        this.output.push(message.tokens, idOf(from));
        break;
      case 'REQUEST_RUNNING':
        this.output.running(idOf(message.request));
        break;
      case 'REQUEST_ENDED':
        this.output.end(idOf(message.request), message.error);
        break;
    }
  }

  report(): FrontendReport {
    const { open_requests, counts, groups } = this.output;
    return { ...structuredClone(counts), requests_open: open_requests, groups: structuredClone(groups) };
  }

  cancelAll(): void {
    for (const id of this.output.open_ids()) this.#cancel(id);
  }

  /** Requests that come after this find nothing that was computed before. */
  resetPrefixCache(groups: Iterable<number>): void {
    for (const group of groups) this.#ports.send(address('dp-group', group), FRONTEND, dropCache(), FROM_OUTSIDE);
  }

  tokenize(prompt: PromptRecord, addSpecialTokens: boolean): { token_ids: number[]; tokens: string[] } {
    const messages = prompt.roles.map((role, index) => ({ role, content: prompt.contents[index] ?? '' }));
    checkLength(prompt, this.#config, this.#tokenizer);
    const token_ids =
      prompt.kind === 'chat'
        ? this.#tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })
        : this.#tokenizer.encode(prompt.text, { addSpecialTokens });
    return { token_ids, tokens: token_ids.map((id) => this.#tokenizer.tokenText(id)) };
  }

  detokenize(ids: readonly number[]): string {
    return this.#tokenizer.decode(ids, { skipSpecialTokens: true });
  }

  #open(call: GenerateCall): void {
    try {
      this.#ports.checkSampling?.(call.sampling);
      checkRank(call.data_parallel_rank, this.#ports.firstGroups);
      const context = call.context_id === '' ? null : this.contexts.get(call.context_id, call.cache_salt);
      const sequences = sequencesOf(call, context, this.#config, this.#tokenizer);
      this.output.open(call.request, sequences, call.stop);
      this.#ports.send(address('request', call.request), FRONTEND, submit(sequences, call.deadline_ms), FROM_OUTSIDE);
    } catch (error) {
      this.#ports.tellCaller({ type: 'ENDED', request: call.request, error: toErrorRecord(error), generated: 0 });
    }
  }

  #cancel(id: number): void {
    this.#ports.send(address('request', id), FRONTEND, cancel(), FROM_OUTSIDE);
  }
}
