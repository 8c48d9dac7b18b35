/**
 * Garbage collections of this thread: how long they have held it up, and moments at which they may. A worker is host and NPU at once, so a collection in the
 * midst of a step is part of that step, for its peers too. The paper's engine collects at chosen moments (xDeepServe §4.4); here:
 *
 *   allocated since the last one   0 ──────── 4 MiB ─────────────── 12 MiB ──────────────── 16 MiB
 *                                               └ in a rest             └ between two steps    └ V8 by itself, wherever the thread is
 *
 * Node alone collects only what is young when it is asked to, in 0.05 to 3 ms. Deno's `gc` takes everything each time whatever it is asked for (2.9.6: 60 to
 * 130 ms), so there nothing is chosen, only measured. A thread that never returns to its event loop is told of no performance entries: V8's profiler of collections is asked.
 * @module
 */
import { GCProfiler, getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { CollectionReport } from '../protocol/threads.ts';

const IS_DENO = 'Deno' in globalThis;
/** Deno says nanoseconds where Node says microseconds (2.9.6, 24.21). */
const COST_PER_US = IS_DENO ? 1_000 : 1;
const REST_BYTES = 4 * 2 ** 20;
const BETWEEN_STEPS_BYTES = 12 * 2 ** 20;
/** The heap's size is asked for once in so many steps, in which it grows by a megabyte or two: that takes a microsecond of warm caches. */
const STEPS_PER_LOOK = 32;

type Collect = (options: { readonly type: 'minor' }) => void;

/** Of this thread; missing: it has not been asked for. */
let young: Collect | undefined;

/** Null: the runtime cannot collect what is young alone. A new context takes a millisecond, so a thread that rehearses before it begins makes it then. */
function youngCollector(): Collect | null {
  if (IS_DENO) return null;
  // It adds a function that only contexts made from now on have: nobody else sees it.
  if (young === undefined) setFlagsFromString('--expose-gc');
  young ??= runInNewContext('gc') as Collect;
  return young;
}

const heapUsed = (): number => getHeapStatistics().used_heap_size;

export class Collections {
  readonly #collect = youngCollector();
  readonly #profiler = new GCProfiler();
  /** The heap's size after the last collection, and at the last look. */
  #floor = heapUsed();
  #seen = this.#floor;
  #steps = 0;
  #counts = { collections: 0, collections_chosen: 0, collections_us_sum: 0, collections_us_max: 0 };

  constructor() {
    this.#profiler.start();
  }

  /** A step has ended, and no other is in its midst. */
  betweenSteps(): void {
    this.#steps = (this.#steps + 1) % STEPS_PER_LOOK;
    if (this.#steps === 0) this.#look(BETWEEN_STEPS_BYTES);
  }

  /** The thread rests: no step runs, and none was asked for in the last second or so. */
  rest(): void {
    this.#look(REST_BYTES);
  }

  report(): CollectionReport {
    this.#read();
    return { ...this.#counts };
  }

  #look(bytes_max: number): void {
    const used = heapUsed();
    if (used < this.#seen) {
      this.#read();
      this.#floor = used;
    }
    this.#seen = used;
    if (this.#collect === null || used - this.#floor < bytes_max) return;
    this.#collect({ type: 'minor' });
    this.#read();
    this.#counts.collections_chosen++;
    this.#floor = heapUsed();
    this.#seen = this.#floor;
  }

  /** What the profiler has noted is let go of, so it is never much. */
  #read(): void {
    const noted = this.#profiler.stop();
    this.#profiler.start();
    for (const { cost } of noted.statistics) {
      const us = cost / COST_PER_US;
      this.#counts.collections++;
      this.#counts.collections_us_sum += us;
      this.#counts.collections_us_max = Math.max(this.#counts.collections_us_max, us);
    }
  }
}
