/**
 * Tool calls between tokens of their own, as DeepSeek and Kimi write them: a section of calls, each a head and its arguments.
 *
 *   deepseek_v3    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
 *                  ```json
 *                  {"city": "Paris"}
 *                  ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
 *   deepseek_v31   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
 *   kimi_k2        <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>
 *                  <|tool_calls_section_end|>
 *
 * Arguments are the model's own text, be it JSON or not, as in vLLM. What has the marks and is no call is content, marks and all.
 * @module
 */
import { ContentGate } from './content-gate.ts';
import { Marks } from './marks.ts';
import type { Emit, Parser } from './reply-part.ts';

export type MarkedCallFormat = {
  readonly section: string;
  readonly section_end: string;
  readonly call: string;
  readonly call_end: string;
  readonly head_end: string;
  /** Ends with `head_end`. Matches from the call's mark up to where its arguments begin, with the groups `name` and perhaps `id`. */
  readonly head: RegExp;
  /** Arguments stand in a fence of ``` that ends with the call. */
  readonly is_fenced: boolean;
};

/** Characters. What is longer holds no name. */
const HEAD_MAX = 1024;
const FENCE = '```';

type State = 'content' | 'section' | 'head' | 'arguments';

export class MarkedToolCalls implements Parser {
  readonly #format: MarkedCallFormat;
  readonly #emit: Emit;
  readonly #gate: ContentGate;
  readonly #outside: Marks;
  readonly #inside: Marks;
  #state: State = 'content';
  #calls = 0;
  /** Marks and text since the section's begin or the last call: content, should no call come of it. */
  #pending = '';
  #head = '';
  /** Of the arguments: white space, and what may be the fence's end. */
  #held = '';
  #hasArguments = false;

  constructor(format: MarkedCallFormat, emit: Emit) {
    this.#format = format;
    this.#emit = emit;
    this.#gate = new ContentGate(emit);
    this.#outside = new Marks([format.section]);
    this.#inside = new Marks([format.call, format.call_end, format.section_end]);
  }

  step(character: string): void {
    const { text, mark } = (this.#state === 'content' ? this.#outside : this.#inside).step(character);
    this.#take(text);
    if (mark !== null) this.#meet(mark);
  }

  end(): void {
    this.#take(this.#state === 'content' ? this.#outside.flush() : this.#inside.flush());
    if (this.#state === 'arguments') this.#endCall();
    this.#abandon();
    this.#gate.end();
  }

  #take(text: string): void {
    if (text === '') return;
    if (this.#state === 'content') this.#gate.step(text);
    else if (this.#state === 'section') this.#pending += text;
    else for (let at = 0; at < text.length; at++) this.#withinCall(text[at] ?? '');
  }

  #meet(mark: string): void {
    const { section, section_end, call } = this.#format;
    // A call that begins, or a section that ends, ends the call before it too.
    if (this.#state === 'arguments') {
      this.#endCall();
      if (mark === call) this.#beginCall();
      else this.#state = mark === section_end ? 'content' : 'section';
      return;
    }
    if (mark === section) {
      this.#pending = mark;
      this.#state = 'section';
    } else if (mark === call) {
      this.#beginCall();
    } else if (mark === section_end && this.#state === 'section' && this.#calls > 0 && this.#pending.trim() === '') {
      this.#pending = '';
      this.#state = 'content';
    } else {
      // A head without arguments, or a section without calls.
      this.#pending += this.#head + mark;
      this.#head = '';
      if (mark !== section_end) this.#state = 'section';
      else this.#abandon();
    }
  }

  #beginCall(): void {
    this.#pending += this.#head + this.#format.call;
    this.#head = '';
    this.#state = 'head';
  }

  #withinCall(character: string): void {
    if (this.#state === 'head') this.#headStep(character);
    else this.#argumentStep(character);
  }

  #headStep(character: string): void {
    this.#head += character;
    if (this.#head.length > HEAD_MAX || !this.#head.endsWith(this.#format.head_end)) return;
    const groups = this.#format.head.exec(this.#head)?.groups;
    if (groups?.['name'] === undefined) return;
    this.#keepStray();
    this.#gate.call();
    this.#emit({ kind: 'call', index: this.#calls++, name: groups['name'], id: groups['id'] ?? null });
    this.#head = '';
    this.#hasArguments = false;
    this.#state = 'arguments';
  }

  /** What stood before this call's own mark and was no call comes out before it. */
  #keepStray(): void {
    const { section, call } = this.#format;
    const stray = this.#pending.slice(0, this.#pending.length - call.length);
    this.#pending = '';
    const text = stray.startsWith(section) ? stray.slice(section.length) : stray;
    if (text.trim() !== '') this.#gate.step(text);
  }

  #argumentStep(character: string): void {
    const mayEnd = /\s/.test(character) || (this.#format.is_fenced && character === '`');
    if (mayEnd) {
      // White space before them is none of them.
      if (this.#hasArguments || character === '`') this.#held += character;
      return;
    }
    this.#hasArguments = true;
    this.#argue(this.#held + character);
    this.#held = '';
  }

  #endCall(): void {
    const held = this.#held.trimEnd();
    this.#argue(this.#format.is_fenced && held.endsWith(FENCE) ? held.slice(0, -FENCE.length).trimEnd() : held);
    this.#held = '';
  }

  #argue(text: string): void {
    this.#emit({ kind: 'arguments', index: this.#calls - 1, text });
  }

  /** Nothing is to come of it. */
  #abandon(): void {
    const text = this.#pending + this.#head;
    this.#pending = '';
    this.#head = '';
    this.#state = 'content';
    if (text.trim() !== '') this.#gate.step(text);
  }
}
