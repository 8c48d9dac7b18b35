/**
 * Reasoning between two marks, as DeepSeek R1, Qwen3 and Kimi K2 write it: `<think>…</think>answer`. Many templates open the thinking within the prompt, so
 * that the reply begins inside; and some close it there, for a reply without any. vLLM: `deepseek_r1`, `deepseek_v3`, `qwen3`, `kimi_k2`.
 *
 *   opening ── <think> or any text ──► reasoning ── </think> ──► content
 *      └── where no thinking is the rule: any text ────────────────►┘
 * @module
 */
import { Marks } from './marks.ts';
import type { Emit, Parser } from './reply-part.ts';

export type ThinkingFormat = {
  readonly open: string;
  readonly close: string;
  /** Marks that end the reasoning as well and belong to what follows: a call that begins without `close`. */
  readonly also_close: readonly string[];
  /** What a reply is that begins without `open`, where the prompt says nothing about it. */
  readonly unmarked: 'reasoning' | 'content';
};

/** How a prompt leaves its reply: in an opened thinking, after a closed one, or with nothing said. */
export type PromptEnd = 'opened' | 'closed' | 'unmarked';

/** By the prompt's last text: what follows the mark there is white space at most. */
export function promptEnd({ open, close }: ThinkingFormat, tail: string): PromptEnd {
  const text = tail.trimEnd();
  return text.endsWith(close) ? 'closed' : text.endsWith(open) ? 'opened' : 'unmarked';
}

type State = 'opening' | 'reasoning' | 'content';

export class Thinking implements Parser {
  readonly #format: ThinkingFormat;
  readonly #content: Parser;
  readonly #emit: Emit;
  readonly #marks: Marks;
  readonly #unmarked: 'reasoning' | 'content';
  #state: State;
  /** White space before a mark that may still come. */
  #lead = '';
  #hasOpened = false;

  /** `content` reads on where reasoning has ended. */
  constructor(format: ThinkingFormat, prompt: PromptEnd, content: Parser, emit: Emit) {
    this.#format = format;
    this.#content = content;
    this.#emit = emit;
    this.#marks = new Marks([format.open, format.close, ...format.also_close]);
    this.#unmarked = prompt === 'opened' ? 'reasoning' : format.unmarked;
    this.#state = prompt === 'closed' ? 'content' : 'opening';
  }

  /** Whether the next character is one of the reasoning, as far as can be told. */
  get isReasoning(): boolean {
    return this.#state === 'reasoning';
  }

  /** Whether `open` was met: a token that brings it is no reasoning itself. */
  get hasOpened(): boolean {
    return this.#hasOpened;
  }

  step(character: string): void {
    if (this.#state === 'content') {
      this.#content.step(character);
      return;
    }
    const { text, mark } = this.#marks.step(character);
    this.#take(text);
    if (mark !== null) this.#meet(mark);
  }

  end(): void {
    if (this.#state !== 'content') this.#take(this.#marks.flush());
    if (this.#state === 'opening') this.#settle(this.#unmarked);
    this.#content.end();
  }

  #meet(mark: string): void {
    const { open, close } = this.#format;
    if (this.#state === 'content') this.#pass(mark);
    else if (mark === open && !this.#hasOpened) this.#open();
    else if (mark === open) this.#emit({ kind: 'reasoning', text: mark });
    else if (this.#state === 'opening' && this.#unmarked === 'content') this.#settle('content', mark);
    else {
      this.#settle('reasoning');
      this.#state = 'content';
      if (mark !== close) this.#pass(mark);
    }
  }

  /** What stood before the mark is reasoning too, unless it is white space alone. */
  #open(): void {
    this.#lead = '';
    this.#hasOpened = true;
    this.#state = 'reasoning';
  }

  #take(text: string): void {
    if (this.#state === 'reasoning') {
      this.#emit({ kind: 'reasoning', text });
    } else if (this.#state === 'content') {
      this.#pass(text);
    } else {
      this.#lead += text;
      if (text.trim() !== '') this.#settle(this.#unmarked);
    }
  }

  /** No mark opened it. */
  #settle(state: 'reasoning' | 'content', more = ''): void {
    const lead = this.#lead + more;
    this.#lead = '';
    this.#state = state;
    if (state === 'reasoning') this.#emit({ kind: 'reasoning', text: lead });
    else this.#pass(lead + this.#marks.flush());
  }

  #pass(text: string): void {
    for (let at = 0; at < text.length; at++) this.#content.step(text[at] ?? '');
  }
}
