/**
 * Where a JSON value ends, character by character. It judges no more than that: what is within may be malformed.
 * @module
 */
export class JsonValueEnd {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  #begun = false;
  #isPlain = false;

  /** `inside`: the character is the value's; `last`: and it ends there; `after`: the value ended before it. */
  step(character: string): 'inside' | 'last' | 'after' {
    if (this.#isInString) return this.#inString(character);
    const isFirst = !this.#begun;
    this.#begun = true;
    if (character === '"' && (isFirst || this.#depth > 0)) {
      this.#isInString = true;
      return 'inside';
    }
    if (character === '{' || character === '[') {
      this.#depth++;
      return 'inside';
    }
    if (this.#depth > 0) {
      if (character === '}' || character === ']') this.#depth--;
      return this.#depth === 0 ? 'last' : 'inside';
    }
    // A number or a word has no end of its own.
    this.#isPlain ||= isFirst;
    return this.#isPlain && !/[\s,}\]]/.test(character) ? 'inside' : 'after';
  }

  #inString(character: string): 'inside' | 'last' {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (character === '\\') this.#isEscaped = true;
    else if (character === '"') {
      this.#isInString = false;
      return this.#depth === 0 ? 'last' : 'inside';
    }
    return 'inside';
  }
}
