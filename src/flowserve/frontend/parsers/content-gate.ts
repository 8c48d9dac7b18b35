/**
 * The text between calls. White space alone beside a call is none of the answer: models put a line break there. Where no call is near, it is.
 * @module
 */
import type { Emit, Parser } from './reply-part.ts';

export class ContentGate implements Parser {
  readonly #emit: Emit;
  #held = '';
  #isOpen = false;
  #isBesideCall = false;

  constructor(emit: Emit) {
    this.#emit = emit;
  }

  step(text: string): void {
    if (!this.#isOpen && text.trim() === '') {
      this.#held += text;
      return;
    }
    this.#isOpen = true;
    this.#emit({ kind: 'content', text: this.#held + text });
    this.#held = '';
  }

  /** A call begins, or ends. */
  call(): void {
    this.#held = '';
    this.#isOpen = false;
    this.#isBesideCall = true;
  }

  end(): void {
    if (!this.#isBesideCall) this.#emit({ kind: 'content', text: this.#held });
    this.#held = '';
  }
}
