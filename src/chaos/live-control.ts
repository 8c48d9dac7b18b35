/**
 * The control thread of a live pod is lost, from its caller's thread: it is killed, or hangs, or there is rubbish where one of the two writes to the other: it ends by
 * that, or is given up for it. The pod begins anew each time, in memory that was cleared or is another; so nothing of a life is kept here but how many threads it lost.
 * @module
 */
import type { RingPlace } from '../fabric/links.ts';
import type { LivePod } from '../pod/live-pod.ts';
import type { Clock } from '../runtime/clock.ts';
import { CALLER_THREAD, CONTROL_THREAD } from '../runtime/directory.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import type { ControlRecoveryStats, PodStats } from '../stats.ts';
import { HANGS } from './live-control-order.ts';
import type { StallParts } from './live-findings.ts';
import type { ControlKind } from './live-kinds.ts';
import { isHeadAt, leaveRubbish } from './ring-bytes.ts';

const STREAM = 14;
/** One more than so many in this time is left for losses that nobody has caused: the fifth in a minute ends a pod (live-pod.ts). */
const LOSSES_MAX = 3;
const PERIOD_MS = 60_000;
/** By then whoever has read rubbish has ended by it. */
const UNREAD_MS = 5_000;

/** What it came to: `missed` where its writer has written over the rubbish before it was read. */
type Outcome = { readonly recovery: ControlRecoveryStats; readonly lost_ms: number } | 'missed';

export class ControlStriker {
  readonly #pod: LivePod;
  readonly #clock: Clock;
  /** By the run's clock, of the last ones. */
  #struck_ms: readonly number[] = [];
  /** By the pod's: what was lost until then is accounted for. */
  #accounted_s = -1;

  constructor(pod: LivePod, clock: Clock) {
    this.#pod = pod;
    this.#clock = clock;
  }

  /** Until it may be lost once more. */
  get waits_ms(): number {
    const [oldest] = this.#struck_ms.slice(-LOSSES_MAX);
    return this.#struck_ms.length < LOSSES_MAX || oldest === undefined ? 0 : Math.max(0, oldest + PERIOD_MS - this.#clock.now_ms());
  }

  /** What to ask for until it is not null: what became of it. */
  strike(kind: ControlKind, seed: number): () => Promise<Outcome | null> {
    const { space, rings } = this.#pod;
    const random = new SeededRandom(seed, STREAM);
    const struck_ms = this.#clock.now_ms();
    this.#struck_ms = [...this.#struck_ms, struck_ms].slice(-LOSSES_MAX);
    let rubbish: { readonly place: RingPlace; readonly head: number } | null = null;
    if (kind === 'control-spins') space.control.stop(HANGS);
    else if (random.below(2) === 0) void this.#pod.killControl();
    else {
      const both = [CALLER_THREAD, CONTROL_THREAD];
      const places = rings.filter(({ from, to }) => both.includes(from) && both.includes(to));
      const place = places[random.below(places.length)] as RingPlace;
      const head = leaveRubbish(space, place, (limit) => random.below(limit));
      if (head === null) return async () => 'missed';
      rubbish = { place, head };
      space.control.ring(place.to);
    }
    return async () => {
      const stats = await this.#pod.stats().catch(() => null);
      if (stats === null) return null;
      const [recovery] = this.unexplained(stats);
      const isOver = rubbish !== null && this.#clock.now_ms() - struck_ms > UNREAD_MS && !isHeadAt(space, rubbish.place, rubbish.head);
      if (recovery === undefined) return isOver ? 'missed' : null;
      if (recovery.start_ms === null) return null;
      this.#accounted_s = recovery.lost_at_seconds;
      const lost_ms = recovery.lost_at_seconds * 1000 + this.#clock.now_ms() - stats.uptime_seconds * 1000;
      return { recovery, lost_ms };
    };
  }

  /** Losses that are no strike's. */
  unexplained({ control_recoveries }: PodStats): readonly ControlRecoveryStats[] {
    return control_recoveries.filter(({ lost_at_seconds }) => lost_at_seconds > this.#accounted_s);
  }
}

/** Of the stall of who lost it. */
export function controlParts({ recovery, lost_ms }: Exclude<Outcome, 'missed'>, struck_ms: number, ended_ms: number): StallParts {
  const found = Math.max(0, lost_ms - struck_ms);
  const start = recovery.start_ms as number;
  return { found, end: null, release: null, start, resume: Math.max(0, ended_ms - struck_ms - found - start), warm: false };
}

/** A pod warns whoever runs it of each such loss: here that is who causes it, and reports it. */
export function withoutWarnings(): Disposable {
  const { emitWarning } = process;
  process.emitWarning = ((warning: string, ...rest: [object | string | undefined]) => {
    const [options] = rest;
    const isOfLoss = typeof options === 'object' && 'type' in options && options.type === 'ControlThreadLost';
    if (!isOfLoss) (emitWarning as (...all: unknown[]) => void).call(process, warning, ...rest);
  }) as typeof emitWarning;
  return {
    [Symbol.dispose]: () => {
      process.emitWarning = emitWarning;
    },
  };
}
