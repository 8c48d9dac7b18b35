/**
 * Watches a live pod: its threads' acts come by rings, as to the recorder, and are replayed here, on the caller's thread, to see what state each left
 * its actor in. So the pod's threads copy no snapshot; where the caller looks on too slowly they wait for it, and nothing is left out.
 *
 *   thread: act ─▶ ring ─▶ its commands …        caller: ring ─▶ after its cause? ─▶ replay ─▶ events ─▶ `inspect`
 *
 * An act is in its ring before anything that it led to is sent. So a cause is always there when its effect is, if perhaps in another ring: the effect waits.
 * @module
 */
import { RingConsumer } from '../fabric/ring.ts';
import { breathe } from '../runtime/event-loop.ts';
import { type ActRing, actRingShape } from './act-log.ts';
import type { ActRecord } from './act-record.ts';
import { CausalOrder } from './causal-order.ts';
import { ReplayedInspection } from './inspect-trace.ts';
import { endInspection, type Inspect } from './inspection-events.ts';
import { isOver, makeState, ReaderBell, setOver } from './recording-state.ts';
import { decodeRecord } from './trace-codec.ts';

/** `next`: read from the ring, and waiting for its cause. */
type Source = { readonly thread: number; readonly ring: RingConsumer; next: ActRecord | null; isOld: boolean };

/** Between two looks while there is much to see, and at most. */
const LOOK_MS_MIN = 2;
const LOOK_MS_MAX = 50;
/** Then the caller's own work has its turn. */
const ACTS_PER_TURN = 64;

export class LiveInspection {
  /** The rings' word: set over, nobody writes into them any more. */
  readonly state = makeState();
  readonly #bell = new ReaderBell(this.state);
  readonly #replayed: ReplayedInspection;
  #sources: Source[] = [];
  readonly #order = new CausalOrder();
  #acts = 0;
  #isClosing = false;
  /** Whoever looked on was told no more. */
  hasFailed = false;
  readonly #ended: Promise<void>;

  /** `life`: of the pod's threads, from 1. */
  constructor(inspect: Inspect, origin_ms: number, life = 1) {
    this.#replayed = new ReplayedInspection(inspect, { origin_ms, life });
    this.#ended = this.#run();
  }

  add({ thread, memory }: ActRing): void {
    for (const other of this.#sources) other.isOld ||= other.thread === thread;
    this.#sources.push({ thread, ring: new RingConsumer(memory, actRingShape), next: null, isOld: false });
  }

  /** Tells what the rings still hold. Called when all of their writers have ended. */
  close(): Promise<void> {
    this.#isClosing = true;
    return this.#ended;
  }

  async #run(): Promise<void> {
    try {
      for (let pause_ms = LOOK_MS_MIN; !isOver(this.state); ) {
        const mustEnd = this.#isClosing;
        const told = this.#turn(mustEnd);
        if (told === 0 && mustEnd) break;
        pause_ms = told > 0 ? LOOK_MS_MIN : Math.min(pause_ms * 2, LOOK_MS_MAX);
        if (told > 0 || mustEnd) await breathe();
        else await this.#bell.sleep(pause_ms);
      }
    } catch (error) {
      this.hasFailed = true;
      endInspection(error);
    }
    // Whoever waits for room waits for nothing.
    setOver(this.state);
  }

  /** Tells what is due, up to a bound; returns how much that was. */
  #turn(mayForce: boolean): number {
    let told = 0;
    for (let before = -1; before !== told && told < ACTS_PER_TURN; ) {
      before = told;
      for (const source of this.#sources) while (told < ACTS_PER_TURN && this.#tellNext(source)) told++;
      // A thread that failed between an act and its ring leaves effects without a cause.
      if (told === 0 && mayForce) told += this.#force();
    }
    if (this.#sources.some(({ isOld }) => isOld)) this.#sources = this.#sources.filter(({ isOld, ring, next }) => !isOld || next !== null || !ring.isEmpty());
    return told;
  }

  #force(): number {
    const stuck = this.#sources.find(({ next }) => next !== null);
    if (stuck?.next == null) return 0;
    this.#tell(stuck.next);
    stuck.next = null;
    return 1;
  }

  #tellNext(source: Source): boolean {
    source.next ??= read(source.ring);
    if (source.next === null || !this.#order.isDue(source.next)) return false;
    this.#tell(source.next);
    source.next = null;
    return true;
  }

  #tell(act: ActRecord): void {
    this.#order.came(act);
    const divergence = this.#replayed.feed(act, this.#acts++);
    if (divergence !== null) throw new Error(`${divergence.actor} does not do again what it did: ${divergence.difference}`);
  }
}

function read(ring: RingConsumer): ActRecord | null {
  while (ring.next()) {
    const record = ring.gather() ? (decodeRecord(ring.payload()) as ActRecord) : null;
    ring.release();
    if (record !== null) return record;
  }
  return null;
}
