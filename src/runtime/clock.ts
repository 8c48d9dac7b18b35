/** The clock, the timers and the random port: all that the pod itself reads of time and draws of chance. (The HTTP server and the command line have clocks of their own.) @module */

export interface Clock {
  /** Milliseconds since the pod started, monotonic. */
  now_ms(): number;
}

export type Cancel = () => void;

export interface Timers {
  /** Acts once, that much later, unless it is cancelled before. */
  after(delay_ms: number, act: () => void): Cancel;
}

export interface Random {
  /** A seed for a request that brought none: 48 bits, so that a JavaScript number holds it exactly. */
  drawSeed(): number;
  /** A whole number from 0 up to, without, `limit`, which is small. */
  below(limit: number): number;
}

/** Milliseconds of the machine's epoch, as precise as the monotonic clock. */
export const epoch_ms = (): number => performance.timeOrigin + performance.now();

/** `origin_ms` is the pod's start in this machine's epoch milliseconds, so that all threads agree. */
export function monotonicClock(origin_ms: number): Clock {
  // Read some ten times a step. Of `globalThis` it is a getter, in Node.
  const { performance: own } = globalThis;
  const offset = own.timeOrigin - origin_ms;
  return { now_ms: () => own.now() + offset };
}

/** Of this thread's event loop. */
export const eventLoopTimers: Timers = {
  after: (delay_ms, act) => {
    const timer = setTimeout(act, delay_ms);
    return () => clearTimeout(timer);
  },
};

/** Drawn ahead: one by one a word costs as much as hundreds at once. */
const words = new Uint32Array(256);
let words_left = 0;

function drawWord(): number {
  if (words_left === 0) {
    crypto.getRandomValues(words);
    words_left = words.length;
  }
  return words[--words_left] as number;
}

export const systemRandom: Random = {
  drawSeed: () => (drawWord() & 0xffff) * 2 ** 32 + drawWord(),
  below: (limit) => Math.floor((drawWord() / 2 ** 32) * limit),
};
