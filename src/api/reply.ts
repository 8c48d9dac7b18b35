/**
 * The message of one choice of a chat, whole or as deltas: reasoning, content and tool calls, as the pod has parsed them, in OpenAI's and vLLM's shapes.
 * @module
 */
import type { ReasoningParserName, ToolCallParserName } from '../flowserve/frontend/parsers/formats.ts';
import type { ReplyPart } from '../flowserve/frontend/parsers/reply-part.ts';
import type { Chunk, FinishReason, ParsedReply } from '../results.ts';

/** What the replies of one request are parsed for, and how. */
export type ReplyFormat = {
  readonly reasoning_parser: ReasoningParserName | null;
  readonly tool_call_parser: ToolCallParserName | null;
  /** False: reasoning is parsed and left out. */
  readonly include_reasoning: boolean;
  /** False: of several calls the first alone. */
  readonly parallel_tool_calls: boolean;
  /** Makes the id of a call whose format has none. */
  readonly newId: () => string;
};

type CallDelta = { index: number; id?: string; type?: 'function'; function: { name?: string; arguments: string } };
export type Delta = { reasoning?: string; reasoning_content?: string; content?: string; tool_calls?: CallDelta[] };
export type ChatFinish = FinishReason | 'tool_calls';

type Call = { readonly id: string; readonly type: 'function'; readonly function: { readonly name: string; arguments: string } };
export type AssistantMessage = {
  readonly role: 'assistant';
  readonly content: string | null;
  readonly refusal: null;
  /** vLLM's name, and the one that it and others had before. */
  readonly reasoning?: string | null;
  readonly reasoning_content?: string | null;
  readonly tool_calls?: readonly Call[];
};

/** Where nobody parses. */
const asContent = (text: string): ParsedReply => ({ parts: text === '' ? [] : [{ kind: 'content', text }], reasoning_tokens: 0 });

/** Follows one choice. Whether its chunks are joined or come one by one, the parts are the same. */
export class Reply {
  readonly #format: ReplyFormat;
  #reasoning = '';
  #content = '';
  readonly #calls: Call[] = [];
  #finish: ChatFinish | null = null;
  #reasoningTokens = 0;

  constructor(format: ReplyFormat) {
    this.#format = format;
  }

  /** What the chunk adds; nothing, where all of its text is held back. */
  push({ text, finish_reason, parsed = asContent(text) }: Chunk): Delta {
    this.#reasoningTokens += parsed.reasoning_tokens;
    const delta: Delta = {};
    for (const part of parsed.parts) this.#add(part, delta);
    // One that was cut off says so: its last call may be half.
    if (finish_reason !== null) this.#finish = finish_reason === 'stop' && this.#calls.length > 0 ? 'tool_calls' : finish_reason;
    return delta;
  }

  /** Null while it goes on. */
  get finish(): ChatFinish | null {
    return this.#finish;
  }

  /** Tokens that were reasoning, however it was shown. */
  get reasoning_tokens(): number {
    return this.#reasoningTokens;
  }

  /** All of it so far. */
  message(): AssistantMessage {
    const { reasoning_parser, include_reasoning } = this.#format;
    const isParsed = this.#calls.length > 0 || (reasoning_parser !== null && this.#reasoningTokens > 0);
    const reasoning = this.#reasoning === '' ? null : this.#reasoning;
    return {
      role: 'assistant',
      content: this.#content === '' && isParsed ? null : this.#content,
      refusal: null,
      ...(reasoning_parser !== null && include_reasoning && { reasoning, reasoning_content: reasoning }),
      ...(this.#calls.length > 0 && { tool_calls: this.#calls }),
    };
  }

  #add(part: ReplyPart, delta: Delta): void {
    switch (part.kind) {
      case 'content':
        this.#content += part.text;
        delta.content = (delta.content ?? '') + part.text;
        break;
      case 'reasoning':
        if (!this.#format.include_reasoning) break;
        this.#reasoning += part.text;
        delta.reasoning = (delta.reasoning ?? '') + part.text;
        delta.reasoning_content = delta.reasoning;
        break;
      case 'call':
        if (this.#isLeftOut(part.index)) break;
        this.#open(part.name, part.id ?? `chatcmpl-tool-${this.#format.newId()}`, delta);
        break;
      case 'arguments':
        if (!this.#isLeftOut(part.index)) this.#argue(part.index, part.text, delta);
        break;
    }
  }

  #isLeftOut(index: number): boolean {
    return index > 0 && !this.#format.parallel_tool_calls;
  }

  #open(name: string, id: string, delta: Delta): void {
    const index = this.#calls.push({ id, type: 'function', function: { name, arguments: '' } }) - 1;
    delta.tool_calls ??= [];
    delta.tool_calls.push({ index, id, type: 'function', function: { name, arguments: '' } });
  }

  #argue(index: number, text: string, delta: Delta): void {
    const call = this.#calls[index];
    if (call === undefined) return;
    call.function.arguments += text;
    delta.tool_calls ??= [];
    const last = delta.tool_calls.at(-1);
    if (last?.index === index) last.function.arguments += text;
    else delta.tool_calls.push({ index, function: { arguments: text } });
  }
}
