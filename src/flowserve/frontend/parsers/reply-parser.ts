/**
 * The text of one choice, parsed as it comes: reasoning first, then the answer with its tool calls. A part of the output shortcut (xDeepServe §4): it needs
 * nothing but the text, which is a function of the choice's ids so far, and so is all that it has said.
 * @module
 */
import { ContentGate } from './content-gate.ts';
import { newToolCallParser, type ReasoningParserName, THINKING_FORMATS, type ToolCallParserName } from './formats.ts';
import { ReasoningCount } from './reasoning-count.ts';
import { type Parser, PartCollector, type ReplyPart } from './reply-part.ts';
import { promptEnd, Thinking } from './thinking.ts';

export type ReplyParserOptions = {
  /** Default: none, a `<think>` is content. */
  readonly reasoning_parser?: ReasoningParserName | undefined;
  /** Default: none, calls are content. */
  readonly tool_call_parser?: ToolCallParserName | undefined;
  /** OpenAI's objects: `qwen3_coder` writes arguments as text, whose types are in the tools' schemas. */
  readonly tools?: readonly object[] | undefined;
  /** How the prompt ends: whether the chat template has opened or closed the thinking there. The last 100 characters will do. */
  readonly prompt_tail?: string | undefined;
};

/**
 * @example
 * ```ts
 * const parser = new ReplyParser({ reasoning_parser: 'qwen3', tool_call_parser: 'hermes' });
 * for (const token of ['<think>', 'Hm', '.', '</think>', 'Yes', '.']) for (const part of parser.push(token)) console.log(part);
 * for (const part of parser.end()) console.log(part);
 * console.log(parser.takeReasoningTokens()); // 2
 * ```
 */
export class ReplyParser {
  readonly #collector = new PartCollector();
  readonly #count = new ReasoningCount();
  readonly #parser: Parser;
  readonly #countsTokens: boolean;

  constructor({ reasoning_parser, tool_call_parser, tools = [], prompt_tail = '' }: ReplyParserOptions) {
    const { emit } = this.#collector;
    const content = tool_call_parser === undefined ? new ContentGate(emit) : newToolCallParser(tool_call_parser, tools, emit);
    const format = reasoning_parser === undefined ? null : THINKING_FORMATS[reasoning_parser];
    this.#parser = format === null ? content : new Thinking(format, promptEnd(format, prompt_tail), content, this.#count, emit);
    this.#countsTokens = format !== null;
  }

  /** The parts that a token's text completes; what may yet be a mark is held back. */
  push(text: string): readonly ReplyPart[] {
    if (this.#countsTokens) this.#count.read(text);
    for (let at = 0; at < text.length; at++) this.#parser.step(text[at] ?? '');
    return this.#collector.take();
  }

  /** The choice has ended: what was held back. */
  end(): readonly ReplyPart[] {
    this.#parser.end();
    return this.#collector.take();
  }

  /** How many tokens have turned out to be reasoning since it was asked last. */
  takeReasoningTokens(): number {
    return this.#count.take();
  }
}
