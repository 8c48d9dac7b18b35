/**
 * How fast choices leave the pod, as far as whoever lets requests in can see: what a refusal says about when to come again.
 *
 * Measured over periods that its owner's timer ends, since nobody here reads a clock; the last ones count most.
 * @module
 */

/** Long enough to hold some departures of a busy pod, short enough to follow its load. */
export const PERIOD_MS = 1_000;
/** Of a period's measure in the estimate; the rest is of those before. */
const WEIGHT = 0.5;
/** While nothing has left yet, nothing is known. */
const UNKNOWN_MS = 1_000;
const WAIT_MS_MIN = 50;
const WAIT_MS_MAX = 60_000;

export class Throughput {
  #left = 0;
  /** Choices a period; null: no period has ended. */
  #rate: number | null = null;
  isMeasuring = false;

  leave(choices: number): void {
    this.#left += choices;
  }

  begin(): void {
    this.isMeasuring = true;
    this.#left = 0;
  }

  end(): void {
    this.isMeasuring = false;
    this.#rate = this.#rate === null ? this.#left : WEIGHT * this.#left + (1 - WEIGHT) * this.#rate;
  }

  /** Milliseconds until so many have probably left. */
  timeFor_ms(choices: number): number {
    if (this.#rate === null || this.#rate === 0) return UNKNOWN_MS;
    return Math.round(Math.min(WAIT_MS_MAX, Math.max(WAIT_MS_MIN, (choices / this.#rate) * PERIOD_MS)));
  }

  toJSON(): object {
    return { left: this.#left, rate: this.#rate, isMeasuring: this.isMeasuring };
  }
}
