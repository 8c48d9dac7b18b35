/** For how long somebody else has said nothing new, by who looks at it now and then. @module */

/** Whoever looks may have been away itself: no more of that time counts. */
const LOOK_MS_MAX = 1_000;

export class Silence {
  #word = -1;
  #looked_ms = 0;
  /** Since the last look that saw another word. */
  ms = 0;

  /** `word`: another one with each sign of life, never −1. */
  look(word: number, now_ms: number): void {
    this.ms = word === this.#word ? this.ms + Math.min(now_ms - this.#looked_ms, LOOK_MS_MAX) : 0;
    this.#word = word;
    this.#looked_ms = now_ms;
  }
}
