/**
 * How far a command has read a trace, for whoever watches.
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import yoctoSpinner, { type Spinner } from 'yocto-spinner';
import type { Pause } from '../trace/acts.ts';

/** Between two looks at the clock. */
const ACTS_PER_LOOK = 256;
/** Between two pictures. */
const PICTURE_MS = 50;

export class TraceProgress implements Disposable {
  readonly #spinner: Spinner | null;
  readonly #what: string;
  readonly #file_bytes: number;
  #acts = 0;
  #painted_ms = 0;

  /** `what`: such as `replaying run.trace`. Shows nothing where nobody watches. */
  constructor(what: string, file_bytes: number) {
    this.#what = what;
    this.#file_bytes = Math.max(1, file_bytes);
    this.#spinner = process.stderr.isTTY ? yoctoSpinner({ text: what, stream: process.stderr }).start() : null;
  }

  readonly pause: Pause = (offset) => {
    if (this.#spinner === null || ++this.#acts % ACTS_PER_LOOK !== 0) return undefined;
    const now_ms = performance.now();
    if (now_ms - this.#painted_ms < PICTURE_MS) return undefined;
    this.#painted_ms = now_ms;
    this.show(offset / this.#file_bytes);
    return setImmediate();
  };

  show(share: number): void {
    if (this.#spinner !== null) this.#spinner.text = `${this.#what}: ${Math.floor(100 * share)} %`;
  }

  [Symbol.dispose](): void {
    this.#spinner?.stop();
  }
}
