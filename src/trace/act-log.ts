/**
 * How the acts of one thread reach the recorder: a ring in shared memory, written before anything that the act led to is sent. So a thread that is killed
 * leaves no message whose cause is unknown; and what the disk costs is paid on the recorder's thread.
 *
 *   thread: act ─▶ ring (published at once) ─▶ its commands are performed …      recorder: ring ─▶ blocks ─▶ file
 *
 * Each life of a thread has a ring of its own, so that a successor and a late writer never meet.
 * @module
 */
import { writeSync } from 'node:fs';
import { type FrameAddress, RingProducer } from '../fabric/ring.ts';
import { type RingShape, ringBytes } from '../fabric/ring-layout.ts';
import type { OnRouted } from '../flowserve/experts/routed-steps.ts';
import type { Act, Witness } from '../runtime/cast.ts';
import type { Clock } from '../runtime/clock.ts';
import { actRecord } from './act-record.ts';
import { isFirstToWait, isOver, ringBell, setOver, waitUnlessOver } from './recording-state.ts';
import type { Prompts } from './redaction.ts';
import { packRecord } from './trace-codec.ts';

/** What a ring that stays full means for the run. */
export type WhenFull = 'wait' | 'stop';

/** What whoever acts must know of its reader. */
export type ActLogOptions = {
  readonly whenFull: WhenFull;
  readonly prompts: Prompts;
  /** The trace, where a thread that waits for long is to say so. */
  readonly path?: string;
  /** How long a thread finds no room before it says so, or ends the recording. */
  readonly patience_ms?: number;
};

/** A ring for one life of a thread, as it travels to both its ends; `state` is one word for all of the pod's rings. */
export type ActRing = { readonly memory: WebAssembly.Memory; readonly state: Int32Array; readonly thread: number; readonly options: ActLogOptions };

const SHAPE: RingShape = { offset: 0, capacity: 2 ** 20, slab_bytes: 2 ** 20 };
const PAGE_BYTES = 65_536;
const ADDRESS: FrameAddress = { kind: 1, source: 0, destination: 0, roles: 0 };
/** The bell has called the reader, which needs about as long for a part of a ring. */
const NAP_MS = 1;
/** A disk that writes behind a cache pauses for some hundred milliseconds now and then. Less than what a pod that is closed waits for its threads. */
const PATIENCE_MS = 2_000;

export const actRingShape = SHAPE;

export function makeActRing(thread: number, state: Int32Array, options: ActLogOptions): ActRing {
  const pages = Math.ceil((SHAPE.offset + ringBytes(SHAPE)) / PAGE_BYTES);
  return { memory: new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }), state, thread, options };
}

/** Puts records, the first `bytes` of `words`, into a ring. */
export class RecordLog {
  readonly #producer: RingProducer;
  readonly #ring: ActRing;
  readonly #clock: Clock;

  constructor(ring: ActRing, clock: Clock) {
    this.#ring = ring;
    this.#clock = clock;
    this.#producer = new RingProducer(ring.memory, SHAPE, 0);
  }

  /** Nobody reads it any more. */
  get isOver(): boolean {
    return isOver(this.#ring.state);
  }

  append(words: Int32Array, bytes: number): void {
    if (this.isOver) return;
    if (bytes <= this.#producer.whole_bytes_max) this.#until(() => this.#producer.write(ADDRESS, words, 0, bytes, 0));
    else this.#appendInParts(words, bytes);
    this.#producer.publish();
  }

  #appendInParts(words: Int32Array, total: number): void {
    for (let at = 0; at < total && !this.isOver; ) {
      this.#until(() => {
        const bytes = this.#producer.writePart(ADDRESS, words, at, total, 0);
        at += bytes;
        return bytes > 0;
      });
    }
  }

  /** Tries until it succeeds: wakes the reader and waits for it, up to where the recording ends. */
  #until(attempt: () => boolean): void {
    if (attempt()) return;
    const { state, options } = this.#ring;
    const { patience_ms = PATIENCE_MS } = options;
    const patientUntil_ms = this.#clock.now_ms() + patience_ms;
    do {
      this.#producer.publish();
      if (this.#clock.now_ms() > patientUntil_ms) {
        if (options.whenFull === 'stop') setOver(state);
        else if (options.path !== undefined && isFirstToWait(state)) sayWaits(options.path, this.#ring.thread, patience_ms);
      }
      if (isOver(state)) return;
      ringBell(state);
      waitUnlessOver(state, NAP_MS);
    } while (!attempt());
  }
}

export class ActLog {
  readonly #log: RecordLog;
  readonly #clock: Clock;
  readonly #prompts: Prompts;

  constructor(ring: ActRing, clock: Clock) {
    this.#log = new RecordLog(ring, clock);
    this.#clock = clock;
    this.#prompts = ring.options.prompts;
  }

  readonly witness: Witness = (act) => this.append(act);

  append(act: Act): void {
    if (this.#log.isOver) return;
    const { words, bytes } = packRecord(actRecord(act, Math.floor(this.#clock.now_ms() * 1_000), this.#prompts));
    this.#log.append(words, bytes);
  }
}

/** Not as a warning of the process: a thread that waits has no turn of its event loop in which one could be told. */
function sayWaits(path: string, thread: number, patience_ms: number): void {
  const told = `RecordingWaits: ${path}: thread ${thread} has waited ${patience_ms / 1000} s for its records to be written, and the run waits with it`;
  try {
    writeSync(2, `(minipod) ${told} (record_when_full: 'stop' gives the recording up instead)\n`);
  } catch {
    // Standard error is closed or full: nobody listens.
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

/** Records what gates choose; undefined: nobody does. */
export function routedTo(ring: ActRing | null, clock: Clock): OnRouted | undefined {
  if (ring === null) return undefined;
  const log = new RecordLog(ring, clock);
  return (words, bytes) => log.append(words, bytes);
}
