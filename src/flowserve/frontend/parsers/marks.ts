/**
 * Finds marks in a text that comes character by character; what may yet become one is held back, and no more than that.
 * @module
 */
export class Marks {
  readonly #marks: readonly string[];
  #held = '';

  constructor(marks: readonly string[]) {
    this.#marks = marks;
  }

  /** The text that is none of a mark's, and then the mark that the character completed, if it did. */
  step(character: string): { readonly text: string; readonly mark: string | null } {
    const text = this.#held + character;
    const mark = this.#marks.find((candidate) => text.endsWith(candidate));
    if (mark !== undefined) {
      this.#held = '';
      return { text: text.slice(0, text.length - mark.length), mark };
    }
    let at = 0;
    while (at < text.length && !this.#beginsAt(text, at)) at++;
    this.#held = text.slice(at);
    return { text: text.slice(0, at), mark: null };
  }

  /** What was held back and is text after all. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  #beginsAt(text: string, at: number): boolean {
    return this.#marks.some((mark) => mark.length > text.length - at && mark.startsWith(text.slice(at)));
  }
}
