/**
 * When to look again for what comes in a rhythm, as the tokens of steps do: after half of the time until it is due, then often. Whoever looks every millisecond
 * wakes for nothing most of the time, since steps take several; so it finds what comes as soon, and looks a quarter to two fifths less often (5 and 7 ms a step).
 * @module
 */

/** Milliseconds. What comes late is looked for this often; nobody sleeps longer than the other, whatever the rhythm. */
const NAP_MS = 1;
const NAP_MS_MAX = 4;
/** Longer gaps are pauses. */
const GAP_MS_MAX = 8;
/** Of the time until it is due. */
const SLEPT = 1 / 2;
/** How fast a shorter rhythm is believed; a longer one is at once, since senders that are not in step come in bursts. */
const BELIEF = 1 / 8;

export class ArrivalRhythm {
  #last_ms = Number.NEGATIVE_INFINITY;
  #gap_ms = 0;

  /** Something has come. */
  note(now_ms: number): void {
    const gap_ms = Math.min(now_ms - this.#last_ms, GAP_MS_MAX);
    this.#gap_ms = gap_ms > this.#gap_ms ? gap_ms : this.#gap_ms + (gap_ms - this.#gap_ms) * BELIEF;
    this.#last_ms = now_ms;
  }

  /** Whole milliseconds to sleep from now on: timers know no others. */
  nap_ms(now_ms: number): number {
    const left_ms = this.#last_ms + this.#gap_ms - now_ms;
    return Math.min(NAP_MS_MAX, Math.max(NAP_MS, Math.floor(left_ms * SLEPT)));
  }
}
