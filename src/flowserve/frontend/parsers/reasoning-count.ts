/**
 * How many of a choice's tokens are reasoning: those whose last character is. What may yet be a mark is held back, and so is the count of its tokens.
 * @module
 */
export class ReasoningCount {
  /** Characters that have come, and those of them of which it is known what they are. */
  #read = 0;
  #known = 0;
  /** Of tokens of which it is not known: where each ends, in order. One that has completed no character ends with the next one. */
  readonly #ends: number[] = [];
  #reasoning = 0;

  /** A token has come, with the text that it completes. */
  read(text: string): void {
    this.#ends.push(this.#read + Math.max(text.length, 1));
    this.#read += text.length;
  }

  /** The next `characters` are reasoning, or are not. */
  tell(characters: number, isReasoning: boolean): void {
    this.#known += characters;
    while (this.#ends.length > 0 && (this.#ends[0] as number) <= this.#known) {
      this.#ends.shift();
      if (isReasoning) this.#reasoning++;
    }
  }

  /** No character follows those that have come. */
  end(isReasoning: boolean): void {
    this.tell(1, isReasoning);
  }

  /** Of the tokens that have become known since it was asked last. */
  take(): number {
    const reasoning = this.#reasoning;
    this.#reasoning = 0;
    return reasoning;
  }
}
