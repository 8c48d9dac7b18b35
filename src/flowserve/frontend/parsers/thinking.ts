/**
 * Reasoning between two marks, as DeepSeek R1, Qwen3 and Kimi K2 write it: `<think>…</think>answer`. Many templates open the thinking within the prompt, so
 * that the reply begins inside; and some close it there, for a reply without any. vLLM: `deepseek_r1`, `deepseek_v3`, `qwen3`, `kimi_k2`.
 *
 *   opening ── <think> or any text ──► reasoning ── </think> ──► content
 *      └── where no thinking is the rule: any text ────────────────►┘
 * @module
 */
import { Marks } from './marks.ts';
import type { ReasoningCount } from './reasoning-count.ts';
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
  readonly #count: ReasoningCount;
  readonly #unmarked: 'reasoning' | 'content';
  #state: State;
  /** White space before a mark that may still come. */
  #lead = '';
  #hasOpened = false;

  /** `content` reads on where reasoning has ended; `count` is told what each character is, in order. */
  constructor(format: ThinkingFormat, prompt: PromptEnd, content: Parser, count: ReasoningCount, emit: Emit) {
    this.#format = format;
    this.#content = content;
    this.#emit = emit;
    this.#count = count;
    this.#marks = new Marks([format.open, format.close, ...format.also_close]);
    this.#unmarked = prompt === 'opened' ? 'reasoning' : format.unmarked;
    this.#state = prompt === 'closed' ? 'content' : 'opening';
  }

  step(character: string): void {
    if (this.#state === 'content') {
      this.#count.tell(1, false);
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
    this.#count.end(this.#state === 'reasoning');
    this.#content.end();
  }

  #meet(mark: string): void {
    const { open, close } = this.#format;
    if (this.#state === 'content') this.#pass(mark);
    else if (mark === open && !this.#hasOpened) this.#open();
    else if (mark === open) this.#reason(mark);
    else if (this.#state === 'opening' && this.#unmarked === 'content') this.#settle('content', mark);
    else {
      this.#settle('reasoning');
      this.#state = 'content';
      if (mark !== close) this.#pass(mark);
      else this.#count.tell(mark.length, false);
    }
  }

  /** What stood before the mark is reasoning too, unless it is white space alone. */
  #open(): void {
    this.#count.tell(this.#lead.length + this.#format.open.length, false);
    this.#lead = '';
    this.#hasOpened = true;
    this.#state = 'reasoning';
  }

  #take(text: string): void {
    if (this.#state === 'reasoning') {
      this.#reason(text);
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
    if (state === 'reasoning') this.#reason(lead);
    else this.#pass(lead + this.#marks.flush());
  }

  #reason(text: string): void {
    this.#count.tell(text.length, true);
    this.#emit({ kind: 'reasoning', text });
  }

  #pass(text: string): void {
    this.#count.tell(text.length, false);
    for (let at = 0; at < text.length; at++) this.#content.step(text[at] ?? '');
  }
}
