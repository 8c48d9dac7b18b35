/**
 * What a worker does when it has nothing to do: spin a little, then sleep until its bell rings.
 *
 * Waking a sleeping thread costs 10–60 µs, a spinning one 0.1–0.3 µs. So a worker whose step waits for a peer's experts, which answer within
 * microseconds, spins longer than one that waits for a request.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';

/** About 2 µs of looking at the rings. */
export const SPINS_IDLE = 64;
/**
 * About 100 µs (85 ns each): a layer's worth of a peer's work. A peer that takes longer has been put off its core, and comes back the sooner the sooner this one is
 * free: with 4,000 the pod took an eighth more processor time for the same tokens, and no less by the clock (docs/performance.md).
 */
const SPINS_STEPPING = 1_200;
export const SLEEP_STEPPING_MS = 1;
/** An idle worker looks up this often, to be seen alive. */
export const SLEEP_IDLE_MS = 1_000;

/** Tells the core that this is a spin: what runs beside it on the same core gets its units. Node 24 and Deno 2.9 have it, TypeScript's library not yet. */
const { pause } = Atomics as typeof Atomics & { readonly pause: () => void };

export class IdleLadder {
  readonly #control: ControlPage;
  readonly #thread: number;

  constructor(control: ControlPage, thread: number) {
    this.#control = control;
    this.#thread = thread;
  }

  /** Returns when there may be work. Spinning allocates nothing: garbage of 300 MB/s was seen here, and one worker's collection stalls its peers. */
  idle(hasWork: () => boolean, isStepping: boolean, timer_ms: number): void {
    const spins = isStepping ? SPINS_STEPPING : SPINS_IDLE;
    for (let spin = 0; spin < spins; spin++) {
      if (hasWork()) return;
      pause();
    }
    this.#control.sleep(this.#thread, Math.min(isStepping ? SLEEP_STEPPING_MS : SLEEP_IDLE_MS, timer_ms), hasWork);
  }
}
