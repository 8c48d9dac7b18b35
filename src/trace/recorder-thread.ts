/**
 * Entry of the recorder's thread: reads the rings of all threads and writes the trace. It looks up by itself, so that recording wakes nobody.
 * @module
 */
import { parentPort, workerData } from 'node:worker_threads';
import { RingConsumer } from '../fabric/ring.ts';
import { assert, type ErrorRecord, toErrorRecord } from '../protocol/errors.ts';
import { eventLoopTimers } from '../runtime/clock.ts';
import { type ActRing, actRingShape, isOver, setOver } from './act-log.ts';
import type { TraceIdentity } from './identity.ts';
import type { RunHeader } from './run-header.ts';
import { encodeRecord } from './trace-codec.ts';
import { TraceWriter } from './trace-writer.ts';

export type RecorderData = { readonly path: string; readonly header: RunHeader; readonly state: Int32Array };
export type ToRecorder = { readonly type: 'ring'; readonly ring: ActRing } | { readonly type: 'close' };
export type FromRecorder =
  | { readonly type: 'opened' }
  /** Recording has ended: as it should, since a ring was full, or since the disk failed. */
  | { readonly type: 'ended'; readonly identity: TraceIdentity | null; readonly error: ErrorRecord | null };

/**
 * Between two looks while there is much to write, and at most. A ring holds more than this long's acts. Each look takes a core from somebody: every 2 ms
 * cost a pod on as many workers as cores 0.09 to 0.13 of its tokens, every 25 ms 0.03.
 */
const LOOK_MS_MIN = 25;
const LOOK_MS_MAX = 50;
/** A crash of the process loses at most this long, or one block. */
const FLUSH_MS = 250;

class RecorderThread {
  readonly #state: Int32Array;
  readonly #writer: TraceWriter;
  #rings: { readonly thread: number; readonly ring: RingConsumer; isOld: boolean }[] = [];
  #isClosing = false;
  #sinceFlush_ms = 0;

  constructor({ path, header, state }: RecorderData) {
    this.#state = state;
    this.#writer = TraceWriter.create(path, header);
  }

  /** A thread's earlier life has ended by then: what it has published is all that there is. */
  add({ memory, thread }: ActRing): void {
    for (const other of this.#rings) other.isOld ||= other.thread === thread;
    this.#rings.push({ thread, ring: new RingConsumer(memory, actRingShape), isOld: false });
  }

  close(): void {
    this.#isClosing = true;
  }

  /** Until it is closed and all is written, or a ring was full where that ends it. */
  async run(): Promise<TraceIdentity> {
    for (let pause_ms = LOOK_MS_MIN; ; ) {
      const mustEnd = this.#isClosing || isOver(this.#state);
      const any = this.#drain();
      if (mustEnd && !any) break;
      if (any) pause_ms = LOOK_MS_MIN;
      else pause_ms = Math.min(pause_ms * 2, LOOK_MS_MAX);
      if (!mustEnd) await this.#pause(pause_ms);
    }
    if (isOver(this.#state))
      this.#writer.append(encodeRecord({ kind: 'stopped', reason: 'a thread acted faster than the disk could take, and the run was not to wait' }));
    return this.#writer.close();
  }

  #drain(): boolean {
    let any = false;
    for (const { ring } of this.#rings) {
      while (ring.next()) {
        any = true;
        if (ring.gather()) this.#writer.append(ring.payload());
        ring.release();
      }
    }
    if (this.#rings.some(({ isOld }) => isOld)) this.#rings = this.#rings.filter(({ isOld, ring }) => !isOld || !ring.isEmpty());
    return any;
  }

  async #pause(pause_ms: number): Promise<void> {
    this.#sinceFlush_ms += pause_ms;
    if (this.#sinceFlush_ms >= FLUSH_MS) {
      this.#writer.flush();
      this.#sinceFlush_ms = 0;
    }
    await new Promise<void>((resolve) => eventLoopTimers.after(pause_ms, resolve));
  }
}

const port = parentPort;
assert(port, 'the recorder thread is started by a pod');
const data = workerData as RecorderData;
const tell = (message: FromRecorder): void => port.postMessage(message);
try {
  const recorder = new RecorderThread(data);
  port.on('message', (message: ToRecorder) => (message.type === 'ring' ? recorder.add(message.ring) : recorder.close()));
  tell({ type: 'opened' });
  const identity = await recorder.run();
  tell({ type: 'ended', identity, error: null });
} catch (error) {
  // Whoever waits for room waits for nothing.
  setOver(data.state);
  tell({ type: 'ended', identity: null, error: toErrorRecord(error) });
}
