/**
 * How far a control thread has come that begins: two words, which it writes and its caller's thread reads, who knows nothing else of it until it says where its memory is.
 *
 *   0 ─▶ 1: it runs ─▶ 1 + percent of its weights that are read ─▶ 101: other NPUs get the same ones, recorders and workers begin ─▶ it says what it is
 *
 * The other word counts whatever it says: what several NPUs have is counted in percent once, and may be read for each of them.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { Silence } from '../runtime/silence.ts';
import type { ProgressReport } from './weights.ts';

/**
 * Whoever comes no further for so long will not. By itself it gives its workers 60 s to begin (control.ts), and a recorder 30 to end where they have not
 * (live-recorder.ts); of weights that it reads it says more with each fortieth, of those that it reads again with each tensor.
 */
export const BEGINNING_MS_MAX = 120_000;

const WORD = { at: 0, signs: 1 } as const;
const RUNS = 1;
const LOADED = 101;

export const makeBeginning = (): Int32Array => new Int32Array(new SharedArrayBuffer(Object.keys(WORD).length * Int32Array.BYTES_PER_ELEMENT));

export const setRunning = (beginning: Int32Array): void => say(beginning, RUNS);

export const setLoaded = (beginning: Int32Array, { loaded_bytes, total_bytes }: ProgressReport): void =>
  say(beginning, RUNS + Math.floor((loaded_bytes / total_bytes) * (LOADED - RUNS)));

/** What it has said holds, and it goes on. */
export const setAlive = (beginning: Int32Array): void => void Atomics.add(beginning, WORD.signs, 1);

/** Whoever reads in between takes what it says for said, and its sign for yet to come: the next look sees it. */
function say(beginning: Int32Array, at: number): void {
  Atomics.store(beginning, WORD.at, at);
  setAlive(beginning);
}

/** What its caller's thread sees of it. */
export class BeginningWatch {
  readonly #beginning: Int32Array;
  readonly #silent_ms_max: number;
  readonly #silence = new Silence();

  constructor(beginning: Int32Array, silent_ms_max = BEGINNING_MS_MAX) {
    [this.#beginning, this.#silent_ms_max] = [beginning, silent_ms_max];
  }

  /** @throws `deadline_exceeded` where it does not come further */
  check(now_ms: number, silent_ms_max = this.#silent_ms_max): void {
    this.#silence.look(Atomics.load(this.#beginning, WORD.signs), now_ms);
    if (this.#silence.ms <= silent_ms_max) return;
    const seconds = (this.#silence.ms / 1_000).toFixed(1);
    throw new MinipodError(
      'deadline_exceeded',
      `the pod's control thread has not begun: for ${seconds} s ${missingAt(Atomics.load(this.#beginning, WORD.at))}`,
    );
  }
}

function missingAt(at: number): string {
  if (at < RUNS) return 'it has not run';
  if (at < LOADED) return `it has loaded no more than ${at - RUNS} % of its weights`;
  return 'it has read all of its weights, and other NPUs have yet to get the same ones, or its recorders or its workers have not begun';
}
