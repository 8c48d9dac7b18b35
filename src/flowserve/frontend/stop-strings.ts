/**
 * Ends a text before the first of several stop strings, whatever pieces it comes in.
 * @module
 */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** The text that can be shown now; `stop` is the string that was met, with nothing after it. Text that may yet begin one is held back. */
  push(piece: string): { readonly text: string; readonly stop: string | null } {
    if (this.#stops.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    let at = -1;
    let stop: string | null = null;
    for (const candidate of this.#stops) {
      const found = text.indexOf(candidate);
      if (found >= 0 && (at < 0 || found < at)) {
        at = found;
        stop = candidate;
      }
    }
    if (stop !== null) {
      this.#held = '';
      return { text: text.slice(0, at), stop };
    }
    const held = Math.max(...this.#stops.map((candidate) => overlap(text, candidate)));
    this.#held = text.slice(text.length - held);
    return { text: text.slice(0, text.length - held), stop: null };
  }

  /** What was held back and is text after all. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) if (text.endsWith(stop.slice(0, length))) return length;
  return 0;
}
