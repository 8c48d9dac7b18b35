/**
 * How far a control thread has come that begins: one word, which it writes and its caller's thread reads, who knows nothing else of it until it says where its memory is.
 *
 *   0 ─▶ 1: it runs ─▶ 1 + percent of its weights that are loaded ─▶ 101: recorders and workers begin ─▶ it says what it is
 *
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { Silence } from '../runtime/silence.ts';
import type { ProgressReport } from './weights.ts';

/**
 * Whoever comes no further for so long will not. By itself it gives its workers 60 s to begin (control.ts), and a recorder 30 to end where they have not
 * (live-recorder.ts); of weights that are loaded it says more with each fortieth.
 */
export const BEGINNING_MS_MAX = 120_000;

const RUNS = 1;
const LOADED = 101;

export const makeBeginning = (): Int32Array => new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

export const setRunning = (beginning: Int32Array): void => {
  Atomics.store(beginning, 0, RUNS);
};

export const setLoaded = (beginning: Int32Array, { loaded_bytes, total_bytes }: ProgressReport): void => {
  Atomics.store(beginning, 0, RUNS + Math.floor((loaded_bytes / total_bytes) * (LOADED - RUNS)));
};

/** What its caller's thread sees of it. */
export class BeginningWatch {
  readonly #beginning: Int32Array;
  readonly #silent_ms_max: number;
  readonly #silence = new Silence();

  constructor(beginning: Int32Array, silent_ms_max = BEGINNING_MS_MAX) {
    [this.#beginning, this.#silent_ms_max] = [beginning, silent_ms_max];
  }

  /** @throws `deadline_exceeded` where it does not come further */
  check(now_ms: number): void {
    const at = Atomics.load(this.#beginning, 0);
    this.#silence.look(at, now_ms);
    if (this.#silence.ms <= this.#silent_ms_max) return;
    const seconds = (this.#silence.ms / 1_000).toFixed(1);
    throw new MinipodError('deadline_exceeded', `the pod's control thread has not begun: for ${seconds} s ${missingAt(at)}`);
  }
}

function missingAt(at: number): string {
  if (at < RUNS) return 'it has not run';
  return at < LOADED ? `it has loaded no more than ${at - RUNS} % of its weights` : 'its weights are loaded, and its recorders or its workers have not begun';
}
