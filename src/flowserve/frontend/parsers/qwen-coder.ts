/**
 * Tool calls as Qwen3-Coder writes them (vLLM: `qwen3_coder`, `qwen3_xml`):
 *
 *   <tool_call>
 *   <function=get_weather>
 *   <parameter=city>
 *   Paris
 *   </parameter>
 *   </function>
 *   </tool_call>
 *
 * Values are plain text, and become JSON of the type that the tool's schema says; so arguments stream parameter by parameter. Models leave `<tool_call>` out at
 * times, and ends of what ends with the next thing anyway: both are understood. A block without a function is content.
 * @module
 */
import { ContentGate } from './content-gate.ts';
import { Marks } from './marks.ts';
import { parameterJson, parameterSchemas } from './parameter-value.ts';
import type { Emit, Parser } from './reply-part.ts';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const FUNCTION = '<function=';
const FUNCTION_END = '</function>';
const PARAMETER = '<parameter=';
const PARAMETER_END = '</parameter>';
/** Characters. What is longer is no name. */
const NAME_MAX = 1024;

const MARKS = {
  content: [OPEN, FUNCTION],
  block: [FUNCTION, CLOSE],
  body: [PARAMETER, FUNCTION_END, CLOSE],
  value: [PARAMETER_END, PARAMETER, FUNCTION_END, CLOSE],
} as const;
type State = keyof typeof MARKS | 'name' | 'parameter';

export class QwenCoderToolCalls implements Parser {
  readonly #tools: readonly object[];
  readonly #emit: Emit;
  readonly #gate: ContentGate;
  #state: State = 'content';
  #marks = new Marks(MARKS.content);
  #calls = 0;
  /** Whether a function's end leaves its block open. */
  #isInBlock = false;
  #blockHasCalls = false;
  /** Of the block, what has become nothing yet. */
  #pending = '';
  #label = '';
  #value = '';
  #schemas: { readonly [name: string]: unknown } = {};
  #parameters = 0;

  constructor(tools: readonly object[], emit: Emit) {
    this.#tools = tools;
    this.#emit = emit;
    this.#gate = new ContentGate(emit);
  }

  step(character: string): void {
    if (this.#state === 'name' || this.#state === 'parameter') {
      this.#nameStep(this.#state, character);
      return;
    }
    const { text, mark } = this.#marks.step(character);
    this.#take(text);
    if (mark !== null) this.#meet(mark);
  }

  end(): void {
    this.#take(this.#marks.flush());
    if (this.#state === 'name') this.#gate.step(this.#pending + this.#label);
    else if (this.#state === 'block') this.#endBlock('');
    else if (this.#state === 'body') this.#endCall();
    else if (this.#state === 'value') this.#endValue(false);
    this.#gate.end();
  }

  #enter(state: State): void {
    this.#state = state;
    if (state === 'name' || state === 'parameter') this.#label = '';
    else this.#marks = new Marks(MARKS[state]);
  }

  #take(text: string): void {
    if (this.#state === 'value') this.#value += text;
    else if (this.#state === 'block') this.#pending += text;
    else if (text !== '' && (this.#state === 'content' || text.trim() !== '')) this.#gate.step(text);
  }

  #meet(mark: string): void {
    if (this.#state === 'value') this.#endValue(true);
    if (mark === OPEN) {
      this.#pending = OPEN;
      this.#isInBlock = true;
      this.#blockHasCalls = false;
      this.#enter('block');
    } else if (mark === FUNCTION) {
      if (this.#state === 'content') this.#isInBlock = false;
      this.#pending = this.#state === 'content' ? FUNCTION : this.#pending + FUNCTION;
      this.#enter('name');
    } else if (mark === PARAMETER) {
      this.#enter('parameter');
    } else if (mark === PARAMETER_END) {
      this.#enter('body');
    } else if (this.#state === 'block') {
      this.#endBlock(CLOSE);
    } else {
      this.#endCall();
      this.#enter(mark === FUNCTION_END && this.#isInBlock ? 'block' : 'content');
    }
  }

  #nameStep(state: 'name' | 'parameter', character: string): void {
    if (character !== '>' && this.#label.length < NAME_MAX) {
      this.#label += character;
      return;
    }
    const name = character === '>' ? this.#label.trim() : '';
    if (state === 'name') this.#begin(name, character);
    else if (name === '') this.#stray(PARAMETER + this.#label + character, 'body');
    else this.#enter('value');
  }

  #begin(name: string, character: string): void {
    const before = this.#pending;
    this.#pending = '';
    if (name === '') {
      this.#stray(before + this.#label + character, 'content');
      return;
    }
    this.#gate.call();
    this.#emit({ kind: 'call', index: this.#calls++, name, id: null });
    this.#schemas = parameterSchemas(this.#tools, name);
    this.#parameters = 0;
    this.#blockHasCalls = true;
    this.#enter('body');
  }

  #stray(text: string, state: State): void {
    this.#gate.step(text);
    this.#enter(state);
  }

  /** `isWhole` false: the text has ended within it, and the JSON is left as open. */
  #endValue(isWhole: boolean): void {
    const name = this.#label.trim();
    const text = this.#value.replace(/^\n/, '').replace(/\n$/, '');
    this.#value = '';
    const whole = parameterJson(text, Object.hasOwn(this.#schemas, name) ? this.#schemas[name] : undefined);
    const json = isWhole || !whole.startsWith('"') ? whole : whole.slice(0, -1);
    this.#argue(`${this.#parameters++ === 0 ? '{' : ', '}${JSON.stringify(name)}: ${json}`);
  }

  #endCall(): void {
    this.#argue(this.#parameters === 0 ? '{}' : '}');
  }

  #endBlock(mark: string): void {
    const rest = this.#pending;
    this.#pending = '';
    if (!this.#blockHasCalls) this.#gate.step(rest + mark);
    else if (rest.trim() !== '') this.#gate.step(rest);
    this.#enter('content');
  }

  #argue(text: string): void {
    this.#emit({ kind: 'arguments', index: this.#calls - 1, text });
  }
}
