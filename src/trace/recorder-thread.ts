/**
 * Entry of the recorder's thread: reads the rings of all threads and writes the trace. It looks up by itself; a thread wakes it only
 * when its ring is full.
 * @module
 */
import { parentPort, workerData } from 'node:worker_threads';
import { RingConsumer } from '../fabric/ring.ts';
import { assert, type ErrorRecord, MinipodError, toErrorRecord } from '../protocol/errors.ts';
import { epoch_ms, monotonicClock } from '../runtime/clock.ts';
import { breathe, keepAwake } from '../runtime/event-loop.ts';
import { type ActRing, actRingShape } from './act-log.ts';
import type { TraceIdentity } from './identity.ts';
import { isLost, isOver, ReaderBell, setOver } from './recording-state.ts';
import { encodeRecord } from './trace-codec.ts';
import { TraceWriter } from './trace-writer.ts';

export type RecorderData = { readonly path: string; readonly header: object; readonly state: Int32Array };
export type ToRecorder = { readonly type: 'ring'; readonly ring: ActRing } | { readonly type: 'close' };
export type FromRecorder =
  | { readonly type: 'opened' }
  /** Recording has ended: as it should, or with an error since a ring stayed full (what came before is whole then) or the disk failed. */
  | { readonly type: 'ended'; readonly identity: TraceIdentity | null; readonly error: ErrorRecord | null };

/**
 * Between two looks while there is much to write, and at most. A ring holds about this long's acts; one that is full ends the pause. Each look takes a
 * core from somebody: every 2 ms cost a pod on as many workers as cores 0.09 to 0.13 of its tokens, every 25 ms 0.03.
 */
const LOOK_MS_MIN = 25;
const LOOK_MS_MAX = 50;
/** A crash of the process loses at most this long, or one block. */
const FLUSH_MS = 250;
/** Read from one ring before the next one has its turn: a few milliseconds' work, so that no ring keeps the others waiting. */
const TURN_BYTES = 2 ** 18;
/** What a frame costs beside its payload, about. */
const FRAME_BYTES = 64;

const LOST = 'the control thread was lost, and all others with it';
const STOPPED = 'a thread found no room for its records for too long: recorder or disk are slower than the run, which was not to wait';

class RecorderThread {
  readonly #state: Int32Array;
  readonly #writer: TraceWriter;
  readonly #bell: ReaderBell;
  readonly #clock = monotonicClock(epoch_ms());
  #rings: { readonly thread: number; readonly ring: RingConsumer; isOld: boolean }[] = [];
  #isClosing = false;
  #flushed_ms = 0;

  constructor({ path, header, state }: RecorderData) {
    this.#state = state;
    this.#bell = new ReaderBell(state);
    this.#writer = TraceWriter.create(path, header);
  }

  /** A thread's earlier life has ended by then: what it has published is all that there is. */
  add({ memory, thread }: ActRing): void {
    for (const other of this.#rings) other.isOld ||= other.thread === thread;
    this.#rings.push({ thread, ring: new RingConsumer(memory, actRingShape), isOld: false });
  }

  close(): void {
    this.#isClosing = true;
    this.#bell.wake();
  }

  /** Until it is closed and all is written, or a ring stayed full where that ends it. */
  async run(): Promise<{ readonly identity: TraceIdentity; readonly stopped: string | null }> {
    using _awake = keepAwake();
    for (let pause_ms = LOOK_MS_MIN; ; ) {
      const mustEnd = this.#isClosing || isOver(this.#state);
      const read = this.#turn();
      if (mustEnd && read === 0) break;
      this.#flushNowAndThen();
      pause_ms = read > 0 ? LOOK_MS_MIN : Math.min(pause_ms * 2, LOOK_MS_MAX);
      if (mustEnd || read >= TURN_BYTES) await breathe();
      else await this.#bell.sleep(pause_ms);
    }
    const stopped = isLost(this.#state) ? LOST : isOver(this.#state) ? STOPPED : null;
    if (stopped !== null) this.#writer.append(encodeRecord({ kind: 'stopped', reason: stopped }));
    return { identity: this.#writer.close(), stopped };
  }

  /** Reads each ring up to a bound. Returns the bytes of the one that had most. */
  #turn(): number {
    let most = 0;
    for (const { ring } of this.#rings) most = Math.max(most, this.#read(ring));
    if (this.#rings.some(({ isOld }) => isOld)) this.#rings = this.#rings.filter(({ isOld, ring }) => !isOld || !ring.isEmpty());
    return most;
  }

  #read(ring: RingConsumer): number {
    let read = 0;
    while (read < TURN_BYTES && ring.next()) {
      read += ring.header.bytes + FRAME_BYTES;
      if (ring.gather()) this.#writer.append(ring.payload());
      ring.release();
    }
    return read;
  }

  #flushNowAndThen(): void {
    const now_ms = this.#clock.now_ms();
    if (now_ms - this.#flushed_ms < FLUSH_MS) return;
    this.#writer.flush();
    this.#flushed_ms = now_ms;
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
  const { identity, stopped } = await recorder.run();
  tell({
    type: 'ended',
    identity,
    error: stopped === null ? null : toErrorRecord(new MinipodError('trace_not_written', `${data.path}: recording has stopped: ${stopped}`)),
  });
} catch (error) {
  // Whoever waits for room waits for nothing.
  setOver(data.state);
  tell({ type: 'ended', identity: null, error: toErrorRecord(error) });
}
