/**
 * Records a live pod: a thread of its own writes the file, and each life of the pod's threads gets a ring to it.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { startThread } from '../runtime/thread-start.ts';
import { type ActLogOptions, type ActRing, makeActRing, type WhenFull } from './act-log.ts';
import type { TraceIdentity } from './identity.ts';
import type { FromRecorder, RecorderData, ToRecorder } from './recorder-thread.ts';
import { makeState, setOver } from './recording-state.ts';
import type { Prompts } from './redaction.ts';

export type LiveRecorderOptions = {
  readonly path: string;
  readonly header: object;
  /** Of acts: whether prompts are in them. */
  readonly prompts?: Prompts;
  readonly whenFull: WhenFull;
  /** There is no whole trace of the run, whether it still runs or is being closed. Not called where recording never began: `create` throws then. */
  readonly onEnded: (error: MinipodError) => void;
  /** Other than the shipped ones: a test's. */
  readonly entry?: URL;
  readonly patience_ms?: number;
};

/** The rings' last megabytes and the disk's own cache: seconds, unless it hangs. */
const CLOSE_MS_MAX = 30_000;

export class LiveRecorder {
  readonly #path: string;
  readonly #worker: Worker;
  /** The rings' word. */
  readonly state = makeState();
  readonly #options: ActLogOptions;
  readonly #onEnded: (error: MinipodError) => void;
  readonly #opened = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<TraceIdentity | null>();
  #isOpen = false;
  #hasEnded = false;

  /** @throws `trace_not_written` when the file exists or cannot be written */
  static async create(options: LiveRecorderOptions): Promise<LiveRecorder> {
    const recorder = new LiveRecorder(options);
    await recorder.#opened.promise;
    return recorder;
  }

  private constructor({ path, header, prompts = 'recorded', whenFull, onEnded, entry, patience_ms }: LiveRecorderOptions) {
    this.#path = path;
    this.#options = { whenFull, prompts, path, ...(patience_ms !== undefined && { patience_ms }) };
    this.#onEnded = onEnded;
    const workerData: RecorderData = { path, header, state: this.state };
    this.#worker = startThread(entry ?? entryPoint('../trace/recorder-thread'), { workerData });
    this.#opened.promise.catch(() => {});
    this.#worker.on('message', (message: FromRecorder) => {
      if (message.type === 'opened') {
        this.#isOpen = true;
        this.#opened.resolve();
      } else this.#end(message.identity, message.error === null ? null : fromErrorRecord(message.error));
    });
    this.#worker.on('error', (error) =>
      this.#end(null, new MinipodError('internal', `${path}: the recorder's thread failed: ${error instanceof Error ? error.message : error}`)),
    );
  }

  /** For one life of a thread. */
  newRing(thread: number): ActRing {
    const ring = makeActRing(thread, this.state, this.#options);
    this.#worker.postMessage({ type: 'ring', ring } satisfies ToRecorder);
    return ring;
  }

  /** Writes what the rings still hold and ends the file; null: it is not whole, and `onEnded` has been told why. */
  async close(limit_ms = CLOSE_MS_MAX): Promise<TraceIdentity | null> {
    this.#worker.postMessage({ type: 'close' } satisfies ToRecorder);
    await waitAtMost(this.#ended.promise, limit_ms);
    this.#end(null, new MinipodError('trace_not_written', `${this.#path}: what was left could not be written within ${limit_ms / 1000} s; its end is missing`));
    return this.#ended.promise;
  }

  /** Once. */
  #end(identity: TraceIdentity | null, error: MinipodError | null): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    // Whoever waits for room waits for nothing.
    setOver(this.state);
    if (error !== null) this.#opened.reject(error);
    if (error !== null && this.#isOpen) this.#onEnded(error);
    this.#ended.resolve(identity);
    void this.#worker.terminate();
  }
}
