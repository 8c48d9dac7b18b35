/**
 * A dummy payload over a link, now and then (xDeepServe §6): a decode side that has no room pulls nothing, and a link that is broken brings nothing; from outside
 * they look alike. What is probed comes over the one, and ends the other: by the card's deadline, after which the next pull has a new link.
 * @module
 */
import { type Backend, WorkRequest } from './backend.ts';

/** Seldom enough to cost nothing, often enough that a pull seldom is the first to find out. */
export const PROBE_EVERY_MS = 1_000;
const WORDS = 4;

/** `passed`, `broken`: probes that came, and that ended with their link; `us_max`: the longest that one took, as its thread saw it. */
export type ProbeCounters = { passed: number; broken: number; us_max: number };
export const noProbes = (): ProbeCounters => ({ passed: 0, broken: 0, us_max: 0 });

export class LinkProbe {
  readonly counters = noProbes();
  readonly #work = new WorkRequest();
  readonly #into = new Int32Array(WORDS);
  #posted_ms = Number.NEGATIVE_INFINITY;

  /** Posts one when it is due, and takes what has come of the last. `addressOf`: any words of an executor's. The owner polls the backend; nothing is allocated. */
  look(backend: Backend, addressOf: (executor: number) => number, source: number): void {
    const work = this.#work;
    const now_ms = backend.now_ms();
    if (work.isIdle) {
      if (backend.broken !== null || now_ms - this.#posted_ms < PROBE_EVERY_MS) return;
      backend.readWords(work, addressOf(source), null, WORDS, this.#into);
      this.#posted_ms = now_ms;
    }
    if (work.isUnderWay || work.isIdle) return;
    // Memory that nobody holds at the moment, the source has said so itself: the link is well.
    if (backend.broken === null) this.counters.passed++;
    else this.counters.broken++;
    this.counters.us_max = Math.max(this.counters.us_max, Math.round((now_ms - this.#posted_ms) * 1000));
    work.state = 'idle';
  }
}
