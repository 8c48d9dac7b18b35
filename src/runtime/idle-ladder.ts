/**
 * What a worker does when it has nothing to do: spin a little, then sleep until its bell rings.
 *
 * Waking a sleeping thread costs 10–60 µs, a spinning one 0.1–0.3 µs. So a worker whose step waits for a peer's experts, which answer within
 * microseconds, spins longer than one that waits for a request.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';

/** About 2 µs of looking at the rings. */
const SPINS_IDLE = 40;
/** About 100 µs: a layer's worth of a peer's work. */
const SPINS_STEPPING = 2_000;
const SLEEP_STEPPING_MS = 1;
/** An idle worker looks up this often, to be seen alive. */
const SLEEP_IDLE_MS = 1_000;

export class IdleLadder {
  readonly #control: ControlPage;
  readonly #thread: number;
  #spins = 0;

  constructor(control: ControlPage, thread: number) {
    this.#control = control;
    this.#thread = thread;
  }

  /** There was work: the next wait starts at the bottom of the ladder. */
  work(): void {
    this.#spins = 0;
  }

  idle(hasWork: () => boolean, isStepping: boolean, timer_ms: number): void {
    if (this.#spins++ < (isStepping ? SPINS_STEPPING : SPINS_IDLE)) return;
    this.#control.sleep(this.#thread, Math.min(isStepping ? SLEEP_STEPPING_MS : SLEEP_IDLE_MS, timer_ms), hasWork);
    this.#spins = 0;
  }
}
