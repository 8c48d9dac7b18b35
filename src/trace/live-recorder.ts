/**
 * Records a live pod: a thread of its own writes the file, and each life of the pod's threads gets a ring to it.
 * @module
 */
import { Worker } from 'node:worker_threads';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import { entryPoint, threadOptions } from '../runtime/thread-entry.ts';
import { type ActLogOptions, type ActRing, makeActRing, makeState, setOver, type WhenFull } from './act-log.ts';
import type { TraceIdentity } from './identity.ts';
import type { FromRecorder, RecorderData, ToRecorder } from './recorder-thread.ts';
import { promptsOf, type RunHeader } from './run-header.ts';

export type LiveRecorderOptions = {
  readonly path: string;
  readonly header: RunHeader;
  readonly whenFull: WhenFull;
  /** Recording has ended before the run has. Not called where it never began: `create` throws then. */
  readonly onEnded: (error: MinipodError) => void;
};

export class LiveRecorder {
  readonly #worker: Worker;
  readonly #state: Int32Array;
  readonly #options: ActLogOptions;
  readonly #ended = Promise.withResolvers<TraceIdentity | null>();
  #isClosing = false;
  #isOpen = false;

  /** @throws `trace_not_written` when the file exists or cannot be written */
  static async create(options: LiveRecorderOptions): Promise<LiveRecorder> {
    const recorder = new LiveRecorder(options);
    await recorder.#opened.promise;
    return recorder;
  }

  readonly #opened = Promise.withResolvers<void>();

  private constructor({ path, header, whenFull, onEnded }: LiveRecorderOptions) {
    this.#state = makeState();
    this.#options = { whenFull, prompts: promptsOf(header) };
    const workerData: RecorderData = { path, header, state: this.#state };
    this.#worker = new Worker(entryPoint('../trace/recorder-thread'), { ...threadOptions(), workerData });
    const fail = (error: MinipodError): void => {
      setOver(this.#state);
      this.#opened.reject(error);
      this.#ended.resolve(null);
      if (this.#isOpen && !this.#isClosing) onEnded(error);
    };
    this.#opened.promise.catch(() => {});
    void this.#ended.promise.then(() => this.#worker.terminate());
    this.#worker.on('message', (message: FromRecorder) => {
      if (message.type === 'opened') {
        this.#isOpen = true;
        this.#opened.resolve();
      } else if (message.error !== null) fail(fromErrorRecord(message.error));
      else {
        if (!this.#isClosing) onEnded(new MinipodError('trace_not_written', `${path}: recording has stopped, since the disk is slower than the run`));
        this.#ended.resolve(message.identity);
      }
    });
    this.#worker.on('error', (error) => fail(new MinipodError('internal', `the recorder's thread failed: ${error instanceof Error ? error.message : error}`)));
  }

  /** For one life of a thread. */
  newRing(thread: number): ActRing {
    const ring = makeActRing(thread, this.#state, this.#options);
    this.#worker.postMessage({ type: 'ring', ring } satisfies ToRecorder);
    return ring;
  }

  /** Writes what the rings still hold and ends the file; null: recording had ended by failure. */
  async close(): Promise<TraceIdentity | null> {
    this.#isClosing = true;
    this.#worker.postMessage({ type: 'close' } satisfies ToRecorder);
    return this.#ended.promise;
  }
}
