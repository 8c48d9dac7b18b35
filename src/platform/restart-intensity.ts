/**
 * Restart intensity, as Erlang's supervisors have it: so many restarts in a period are recovery, more are a fault that restarts do not mend.
 * @module
 */
export const RESTARTS_MAX = 5;
export const RESTART_PERIOD_MS = 10_000;

export class RestartIntensity {
  readonly #restarts_max: number;
  readonly #period_ms: number;
  #restarts: number[] = [];

  constructor(restarts_max = RESTARTS_MAX, period_ms = RESTART_PERIOD_MS) {
    this.#restarts_max = restarts_max;
    this.#period_ms = period_ms;
  }

  /** Notes a restart. False: that is one too many. */
  allows(now_ms: number): boolean {
    this.#restarts = [...this.#restarts.filter((at_ms) => now_ms - at_ms < this.#period_ms), now_ms];
    return this.#restarts.length <= this.#restarts_max;
  }
}
