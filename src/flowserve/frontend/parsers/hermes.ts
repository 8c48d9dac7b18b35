/**
 * Tool calls as Hermes and Qwen write them (vLLM: `hermes`):
 *
 *   Let me look.<tool_call>
 *   {"name": "get_weather", "arguments": {"city": "Paris"}}
 *   </tool_call>
 *
 * Arguments stream as soon as their value begins, and are the model's own text, be it JSON or not: as vLLM streams them. A block that never gets as far as that
 * is parsed when it ends (its members may come in another order), and is content where it is no call.
 * @module
 */
import { ContentGate } from './content-gate.ts';
import { JsonValueEnd } from './json-value.ts';
import { Marks } from './marks.ts';
import type { Emit, Parser } from './reply-part.ts';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const NAME_THEN_ARGUMENTS = /^\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*\S$/;
/** Characters. A name that is not there by then stands elsewhere: looked for when the block ends. */
const HEAD_MAX = 1024;

type State = 'content' | 'head' | 'arguments' | 'tail';

export class HermesToolCalls implements Parser {
  readonly #emit: Emit;
  readonly #gate: ContentGate;
  readonly #outside = new Marks([OPEN]);
  readonly #inside = new Marks([CLOSE]);
  #state: State = 'content';
  #calls = 0;
  /** Of the block, what has become nothing yet. */
  #held = '';
  #value = new JsonValueEnd();

  constructor(emit: Emit) {
    this.#emit = emit;
    this.#gate = new ContentGate(emit);
  }

  step(character: string): void {
    if (this.#state === 'content') {
      const { text, mark } = this.#outside.step(character);
      if (text !== '') this.#gate.step(text);
      if (mark !== null) this.#state = 'head';
      return;
    }
    const { text, mark } = this.#inside.step(character);
    for (let at = 0; at < text.length; at++) this.#within(text[at] ?? '');
    if (mark !== null) this.#close(CLOSE);
  }

  end(): void {
    if (this.#state === 'content') {
      const rest = this.#outside.flush();
      if (rest !== '') this.#gate.step(rest);
    } else {
      const rest = this.#inside.flush();
      for (let at = 0; at < rest.length; at++) this.#within(rest[at] ?? '');
      this.#close('');
    }
    this.#gate.end();
  }

  #within(character: string): void {
    if (this.#state === 'head') this.#head(character);
    else if (this.#state === 'arguments') this.#arguments(character);
    else this.#held += character;
  }

  #head(character: string): void {
    this.#held += character;
    if (this.#held.length > HEAD_MAX) return;
    const [, quoted] = NAME_THEN_ARGUMENTS.exec(this.#held) ?? [];
    const name = quoted === undefined ? null : parsed(quoted);
    if (typeof name !== 'string' || name === '') return;
    this.#call(name);
    this.#held = '';
    this.#value = new JsonValueEnd();
    this.#state = 'arguments';
    this.#arguments(character);
  }

  #arguments(character: string): void {
    const where = this.#value.step(character);
    // White space at the end is none of them, should the block end without the value's.
    if (where === 'after' || /\s/.test(character)) {
      this.#held += character;
    } else {
      this.#argue(this.#held + character);
      this.#held = '';
    }
    if (where !== 'inside') this.#state = 'tail';
  }

  /** The block has ended: by its mark, or with the text. */
  #close(mark: string): void {
    if (this.#state === 'head') this.#whole(mark);
    // A tail that closes the object, perhaps after further members, is what there should be; anything else is kept where a reader will see it.
    else if (this.#state === 'tail' && !isClosing(this.#held)) this.#argue(this.#held);
    this.#held = '';
    this.#state = 'content';
  }

  #whole(mark: string): void {
    const call = parsed(this.#held);
    if (!isObject(call) || typeof call['name'] !== 'string' || call['name'] === '') {
      this.#gate.step(`${OPEN}${this.#held}${mark}`);
      return;
    }
    this.#call(call['name']);
    this.#argue(memberText(this.#held, 'arguments') ?? '{}');
  }

  #call(name: string): void {
    this.#gate.call();
    this.#emit({ kind: 'call', index: this.#calls++, name, id: null });
  }

  #argue(text: string): void {
    this.#emit({ kind: 'arguments', index: this.#calls - 1, text });
  }
}

const isObject = (value: unknown): value is { readonly [key: string]: unknown } => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Undefined for what is no JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What may follow the arguments' value: nothing yet, where the text has ended, or the end of the object that holds it. */
const isClosing = (tail: string): boolean => tail.trim() === '' || isObject(parsed(`{"":0${tail}`));

/** The text of an object's member as it is written, whose numbers no parser has rounded. The object is well-formed. */
function memberText(json: string, name: string): string | null {
  let found: string | null = null;
  let at = json.indexOf('{') + 1;
  for (;;) {
    const key = valueAt(json, at);
    if (key === null) return found;
    const value = valueAt(json, json.indexOf(':', key.end) + 1);
    if (value === null) return found;
    if (parsed(key.text) === name) found = value.text;
    at = value.end;
  }
}

function valueAt(json: string, from: number): { readonly text: string; readonly end: number } | null {
  let start = from;
  while (start < json.length && /[\s,]/.test(json[start] ?? '')) start++;
  if (start >= json.length || json[start] === '}') return null;
  const value = new JsonValueEnd();
  for (let end = start; end < json.length; end++) {
    const where = value.step(json[end] ?? '');
    if (where !== 'inside') return { text: json.slice(start, where === 'last' ? end + 1 : end), end: where === 'last' ? end + 1 : end };
  }
  return null;
}
