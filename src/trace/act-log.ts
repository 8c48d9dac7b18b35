/**
 * How the acts of one thread reach the recorder: a ring in shared memory, written before anything that the act led to is sent. So a thread that is killed
 * leaves no message whose cause is unknown; and what the disk costs is paid on the recorder's thread.
 *
 *   thread: act ─▶ ring (published at once) ─▶ its commands are performed …      recorder: ring ─▶ blocks ─▶ file
 *
 * Each life of a thread has a ring of its own, so that a successor and a late writer never meet.
 * @module
 */
import { type FrameAddress, RingProducer } from '../fabric/ring.ts';
import { type RingShape, ringBytes } from '../fabric/ring-layout.ts';
import type { Act, Witness } from '../runtime/cast.ts';
import type { Clock } from '../runtime/clock.ts';
import { actRecord } from './act-record.ts';
import type { Prompts } from './redaction.ts';
import { packRecord } from './trace-codec.ts';

/** What a full ring means for the run. */
export type WhenFull = 'wait' | 'stop';

/** What whoever acts must know of its reader. */
export type ActLogOptions = { readonly whenFull: WhenFull; readonly prompts: Prompts };

/** A ring for one life of a thread, as it travels to both its ends; `state` is one word for all of the pod's rings. */
export type ActRing = { readonly memory: WebAssembly.Memory; readonly state: Int32Array; readonly thread: number; readonly options: ActLogOptions };

/** Nobody reads the rings any more, or will: the run goes on unrecorded. */
const IS_OVER = 1;
const SHAPE: RingShape = { offset: 0, capacity: 2 ** 20, slab_bytes: 2 ** 20 };
const PAGE_BYTES = 65_536;
const ADDRESS: FrameAddress = { kind: 1, source: 0, destination: 0, roles: 0 };
/** The recorder looks up more often than this. */
const NAP_MS = 1;

export const actRingShape = SHAPE;

export const makeState = (): Int32Array => new Int32Array(new SharedArrayBuffer(4));
export const isOver = (state: Int32Array): boolean => Atomics.load(state, 0) === IS_OVER;
export const setOver = (state: Int32Array): void => {
  Atomics.store(state, 0, IS_OVER);
  Atomics.notify(state, 0);
};

export function makeActRing(thread: number, state: Int32Array, options: ActLogOptions): ActRing {
  const pages = Math.ceil((SHAPE.offset + ringBytes(SHAPE)) / PAGE_BYTES);
  return { memory: new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }), state, thread, options };
}

export class ActLog {
  readonly #producer: RingProducer;
  readonly #ring: ActRing;
  readonly #clock: Clock;

  constructor(ring: ActRing, clock: Clock) {
    this.#ring = ring;
    this.#clock = clock;
    this.#producer = new RingProducer(ring.memory, SHAPE, 0);
  }

  readonly witness: Witness = (act) => this.append(act);

  append(act: Act): void {
    if (isOver(this.#ring.state)) return;
    const { words, bytes } = packRecord(actRecord(act, Math.floor(this.#clock.now_ms() * 1_000), this.#ring.options.prompts));
    if (bytes <= this.#producer.whole_bytes_max) this.#until(() => this.#producer.write(ADDRESS, words, 0, bytes, 0));
    else this.#appendInParts(words, bytes);
    this.#producer.publish();
  }

  #appendInParts(words: Int32Array, total: number): void {
    for (let at = 0; at < total && !isOver(this.#ring.state); ) {
      this.#until(() => {
        const bytes = this.#producer.writePart(ADDRESS, words, at, total, 0);
        at += bytes;
        return bytes > 0;
      });
    }
  }

  /** Tries until it succeeds: waits for the disk, or ends the recording. */
  #until(attempt: () => boolean): void {
    while (!attempt()) {
      this.#producer.publish();
      if (this.#ring.options.whenFull === 'stop') setOver(this.#ring.state);
      if (isOver(this.#ring.state)) return;
      Atomics.wait(this.#ring.state, 0, 0, NAP_MS);
    }
  }
}

/** Shows acts to all who look on: whoever records, whoever inspects. Undefined: nobody does. */
export function witnessOf(rings: readonly ActRing[], clock: Clock): Witness | undefined {
  const logs = rings.map((ring) => new ActLog(ring, clock));
  if (logs.length < 2) return logs[0]?.witness;
  return (act) => {
    for (const log of logs) log.append(act);
  };
}
