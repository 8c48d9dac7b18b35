/**
 * The output process of a DP group, on the thread of its first rank: token ids in, text out, straight to the frontend on the caller's thread (xDeepServe §4,
 * output shortcut). It is the hand of the address `output/N`, no actor: what it tells a scheduler is recorded as a message.
 *
 *   dp-group/N ── TOKENS, one a step ──▶ output/N ── CHUNKS, one frame a step ──▶ the caller's thread, which delivers each index once and in order
 *        ▲                                  │
 *        └──────────── STOP_FOUND ──────────┘      of a prefill task: CHOICE_STOPPED, to its job, since the choice goes on elsewhere
 *
 * A text that cannot be parsed: TEXT_FAILED, to the caller's thread.
 *
 * All that it knows of a choice is what the choice's ids determine: the group that goes on with it begins with those so far, and says nothing twice.
 * @module
 */
import { Detokenizer } from '../../model/detokenizer.ts';
import type { Vocabulary } from '../../model/vocabulary.ts';
import { type Address, address, idOf } from '../../protocol/address.ts';
import type { ChunkRecord, OutputToCaller, PositionRecord, TokenLogprobRecord } from '../../protocol/caller.ts';
import { choiceStopped, decodeTaskAddress, promptComputed, stopFound, taskAddress } from '../../protocol/constructors.ts';
import { toErrorRecord } from '../../protocol/errors.ts';
import { type Message, type PositionLogprobs, taskId } from '../../protocol/messages.ts';
import type { Begun, OutputMessage, ParsedText, TextTerms, TokenOut } from '../../protocol/output.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import type { ReasoningParserName, ToolCallParserName } from './parsers/formats.ts';
import { ReplyParser } from './parsers/reply-parser.ts';
import { StopStrings } from './stop-strings.ts';

export type OutputPorts = {
  /** To the frontend on the caller's thread. */
  readonly show: (message: OutputToCaller) => void;
  readonly send: (to: Address, message: Message, cause: number) => void;
  /** Whether the frontend keeps which group has computed which prompts. */
  readonly tells_prompts: boolean;
};

export class OutputProcess {
  readonly #group: Address;
  readonly #vocabulary: Vocabulary;
  readonly #ports: OutputPorts;
  /** The model's own ends of sequence, which need no naming. */
  readonly #endOfSequence: ReadonlySet<number>;
  /** By the id of the choice's first task. */
  readonly #choices = new Map<number, ShownChoice>();

  constructor(self: Address, vocabulary: Vocabulary, eosTokenIds: readonly number[], ports: OutputPorts) {
    this.#group = address('dp-group', idOf(self));
    this.#vocabulary = vocabulary;
    this.#endOfSequence = new Set(eosTokenIds);
    this.#ports = ports;
  }

  /** Choices that are not over. */
  get open(): number {
    return this.#choices.size;
  }

  /** `act`: the delivery, the cause of what follows. */
  receive(message: OutputMessage, act: number): void {
    if (message.type === 'FORGET') {
      this.#choices.delete(taskId(message));
      return;
    }
    for (const begun of message.begun) {
      try {
        this.#choices.set(taskId(begun.sequence), new ShownChoice(begun, this.#vocabulary));
      } catch (error) {
        this.#failText(begun.sequence, error);
      }
    }
    const chunks: ChunkRecord[] = [];
    for (const out of message.tokens) {
      // A stop string was met, or its text has failed: what was computed beyond that is for nobody.
      const choice = this.#choices.get(taskId(out));
      if (choice === undefined) continue;
      if (out.prompt_logprobs !== null) this.#showPrompt(choice, out.prompt_start, out.prompt_logprobs);
      const chunk = out.token < 0 ? null : this.#chunkOf(choice, out, act);
      if (chunk !== null) chunks.push(chunk);
    }
    if (chunks.length > 0) this.#ports.show({ type: 'CHUNKS', chunks });
  }

  /**
   * What a model writes and a caller declares is foreign to a parser: what fails there fails its own request, through the caller, who cancels what is left of it.
   * The worker goes on, and so do the requests that it serves besides.
   */
  #failText(of: Pick<TokenOut, 'request' | 'choice'>, error: unknown): null {
    this.#choices.delete(taskId(of));
    const message = `the reply's text could not be parsed: ${toErrorRecord(error).message}`;
    this.#ports.show({ type: 'TEXT_FAILED', request: of.request, error: { code: 'internal', message, param: null } });
    return null;
  }

  /** Null: its text has failed. */
  #chunkOf(choice: ShownChoice, out: TokenOut, act: number): ChunkRecord | null {
    const { request, index, token, finish: end, stops } = out;
    if (index === 0 && this.#ports.tells_prompts) this.#ports.send('frontend/0', promptComputed(address('request', request)), act);
    let pushed: ReturnType<ShownChoice['push']>;
    try {
      pushed = choice.push(out);
    } catch (error) {
      return this.#failText(out, error);
    }
    const { text, stop, parsed } = pushed;
    const finish = stop === null ? end : 'stop';
    if (stop !== null && end === null) this.#ports.send(...this.#stopOf(choice), act);
    // Prefill's first token is its last.
    if (finish !== null || choice.begun.stage === 'prefill') this.#choices.delete(taskId(out));
    const chunk: ChunkRecord = {
      request,
      choice: out.choice,
      index,
      text,
      token_ids: [token],
      logprobs: out.logprobs === null ? null : [this.#describe(token, out.logprobs)],
      finish,
      stop_string: stop,
      stop_token: stop === null && stops && !this.#endOfSequence.has(token) ? token : -1,
      cached: out.cached,
      drafted: out.drafted,
      parsed,
    };
    return out.degraded ? { ...chunk, degraded: true } : chunk;
  }

  /** Whom a stop string is told to. */
  #stopOf({ begun: { sequence, stage } }: ShownChoice): [Address, Message] {
    if (stage === 'prefill') return [address('job', sequence.request), choiceStopped(sequence.choice)];
    return [this.#group, stopFound(stage === 'decode' ? decodeTaskAddress(sequence) : taskAddress(sequence))];
  }

  #showPrompt({ begun: { sequence } }: ShownChoice, start: number, logprobs: readonly PositionLogprobs[]): void {
    const described = logprobs.map((position, index) => this.#describe(sequence.prompt[start + index] as number, position));
    this.#ports.show({ type: 'PROMPT_LOGPROBS', request: sequence.request, start, logprobs: described });
  }

  #describe(token: number, { logprob, top_ids, top_logprobs }: PositionLogprobs): PositionRecord {
    return { chosen: this.#describeToken(token, logprob), top: top_ids.map((id, index) => this.#describeToken(id, top_logprobs[index] ?? Number.NaN)) };
  }

  #describeToken(token_id: number, logprob: number): TokenLogprobRecord {
    return { token_id, token: this.#vocabulary.tokenText(token_id), bytes: [...this.#vocabulary.tokenBytes(token_id)], logprob };
  }
}

export type OutputsPorts = {
  readonly show: (from: Address, message: OutputToCaller) => void;
  readonly send: (to: Address, from: Address, message: Message, cause: number) => void;
};

/** Those of one host: of the DP groups whose first rank is among its NPUs. */
export function outputProcesses(plan: AnyPodPlan, npus: readonly number[], vocabulary: Vocabulary, ports: OutputsPorts): Map<Address, OutputProcess> {
  const groups = plan.hosting.deployment.groups.filter((group) => npus.includes(group.npus[0] as number));
  return new Map(
    groups.map(({ id }) => {
      const self = address('output', id);
      const own = {
        show: (message: OutputToCaller) => ports.show(self, message),
        send: (to: Address, message: Message, cause: number) => ports.send(to, self, message, cause),
        tells_prompts: plan.options.prefix_sharing,
      };
      return [self, new OutputProcess(self, vocabulary, plan.config.eosTokenIds, own)];
    }),
  );
}

type Shown = { readonly text: string; readonly stop: string | null };

function parserOf({ reasoning_parser, tool_call_parser, tools, prompt_tail }: TextTerms): ReplyParser | null {
  if (reasoning_parser === '' && tool_call_parser === '') return null;
  return new ReplyParser({
    ...(reasoning_parser !== '' && { reasoning_parser: reasoning_parser as ReasoningParserName }),
    ...(tool_call_parser !== '' && { tool_call_parser: tool_call_parser as ToolCallParserName }),
    tools: tools === '' ? [] : JSON.parse(tools),
    prompt_tail,
  });
}

function parse(parser: ReplyParser, text: string, isLast: boolean): ParsedText {
  const parts = [...parser.push(text), ...(isLast ? parser.end() : [])];
  return { parts, reasoning_tokens: parser.takeReasoningTokens() };
}

/** A choice's text as it comes. */
class ShownChoice {
  readonly begun: Begun;
  readonly #parser: ReplyParser | null;
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopStrings;
  /** Nothing is looked for in its text. */
  readonly #isPlain: boolean;

  constructor(begun: Begun, vocabulary: Vocabulary) {
    const { text } = begun.sequence;
    this.begun = begun;
    this.#detokenizer = new Detokenizer(vocabulary, { skipSpecialTokens: text.skip_special_tokens });
    this.#stops = new StopStrings(text.stop);
    this.#parser = parserOf(text);
    this.#isPlain = this.#parser === null && text.stop.length === 0;
    // What another group has shown.
    for (const [index, token] of begun.output.entries()) {
      const shown = this.#shown(index, this.#detokenizer.push(token));
      this.#parser?.push(shown.text);
    }
    this.#parser?.takeReasoningTokens();
  }

  /** The text that the token completes, and the stop string that it was met by. */
  push(out: TokenOut): Shown & { readonly parsed: ParsedText | null } {
    if (this.#isPlain && out.finish === null) return { text: this.#detokenizer.push(out.token), stop: null, parsed: null };
    const { text, stop } = this.#textOf(out);
    return { text, stop, parsed: this.#parser === null ? null : parse(this.#parser, text, stop !== null || out.finish !== null) };
  }

  #textOf({ index, token, finish, stops }: TokenOut): Shown {
    // The token that ends a sequence by itself is no part of its text.
    const { text, stop } = stops ? { text: '', stop: null } : this.#shown(index, this.#detokenizer.push(token));
    if (stop !== null || finish === null) return { text, stop };
    const rest = this.#stops.push(this.#detokenizer.flush());
    return { text: text + rest.text + (rest.stop === null ? this.#stops.flush() : ''), stop: rest.stop };
  }

  /** Stop strings count from min_tokens on. */
  #shown(index: number, piece: string): Shown {
    if (index < this.begun.sequence.sampling.min_tokens) return { text: piece, stop: null };
    return this.#stops.push(piece);
  }
}
