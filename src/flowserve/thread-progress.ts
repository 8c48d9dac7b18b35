/**
 * Whether threads get on with their work, and whether they can: what heartbeats go by beside the answers (actors/policies/heartbeats.ts).
 *
 * A thread that waits for a processor answers as little as one that hangs, and on a crowded machine for as long. So silence counts as far as the thread could have
 * ended it: wholly while it sleeps at its bell, or where nobody knows; by the time that it was given while it is runnable.
 *
 * One that sleeps elsewhere may wait for another thread that waits for a processor: V8 has a lock that all threads of a process take when they give its helpers
 * something to compile or to collect, and one for all that sleep in Atomics.wait. Whoever is put off its processor with one of these holds up the others, on
 * a crowded machine for hundreds of milliseconds (seen in their stacks, Node 24). So such sleep counts as far as no thread of the process had to wait, and by a fifth
 * at least: who is blocked for good is found on the most crowded machine, five times as late.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { type ThreadTimes, threadTimes, timesOfAll } from '../runtime/os-thread.ts';

/** `share`: of the time since it was looked at last, in percent, that counts as its own. */
export type Progress = { readonly word: number; readonly share: number };
/** In so much of a beat's time a thread that is well would have answered. */
const ENOUGH_SHARE = 0.5;
/** Nobody who starves has a lock for ever. */
const ASLEEP_SHARE_MIN = 0.2;
/** Who was not looked at for so long is looked at as if for the first time. */
const STALE_MS = 250;

type Look = { readonly at_ms: number; readonly times: ThreadTimes | null; readonly share: number };
/** At all threads of the process. */
type WideLook = { readonly at_ms: number; readonly times: ReadonlyMap<number, ThreadTimes>; readonly share: number };
export type ThreadProgressPorts = {
  readonly control: Pick<ControlPage, 'progressOf' | 'osThreadOf' | 'isMarkedAsleep'>;
  readonly now_ms: () => number;
  readonly timesOf?: typeof threadTimes;
  readonly timesOfAll?: typeof timesOfAll;
};

export class ThreadProgress {
  readonly #ports: Required<ThreadProgressPorts>;
  /** By who asks, and thread. */
  readonly #looks = new Map<string, Look>();
  #wideLook: WideLook = { at_ms: Number.NEGATIVE_INFINITY, times: new Map(), share: 0 };

  constructor(ports: ThreadProgressPorts) {
    this.#ports = { timesOf: threadTimes, timesOfAll, ...ports };
  }

  of(asker: string, thread: number): Progress {
    const { control, now_ms, timesOf } = this.#ports;
    const key = `${asker} ${thread}`;
    const at_ms = now_ms();
    const last = this.#looks.get(key);
    const word = control.progressOf(thread);
    // Several of those who are asked for live there.
    if (last !== undefined && at_ms - last.at_ms < 1) return { word, share: last.share };
    const times = timesOf(control.osThreadOf(thread));
    const share = last === undefined || at_ms - last.at_ms > STALE_MS ? 0 : this.#shareOf(thread, last.times, times, at_ms - last.at_ms);
    this.#looks.set(key, { at_ms, times, share });
    return { word, share };
  }

  #shareOf(thread: number, before: ThreadTimes | null, now: ThreadTimes | null, elapsed_ms: number): number {
    if (before === null || now === null) return 100;
    if (now.isRunnable) return percent((now.run_ns - before.run_ns) / 1e6 / (elapsed_ms * ENOUGH_SHARE));
    return this.#ports.control.isMarkedAsleep(thread) ? 100 : this.#shareOfWorstOff();
  }

  /** Of the time since all threads were looked at last: that in which none of them waited for a processor. Half a millisecond, where somebody sleeps so. */
  #shareOfWorstOff(): number {
    const at_ms = this.#ports.now_ms();
    const last = this.#wideLook;
    const elapsed_ms = at_ms - last.at_ms;
    if (elapsed_ms < 1) return last.share;
    const times = this.#ports.timesOfAll();
    const waits_ms = [...times].map(([id, now]) => waited_ms(last.times.get(id), now, elapsed_ms));
    const share = elapsed_ms > STALE_MS ? 0 : percent(Math.max(ASLEEP_SHARE_MIN, 1 - Math.max(0, ...waits_ms) / elapsed_ms));
    this.#wideLook = { at_ms, times, share };
    return share;
  }
}

/** A wait is in the count when it is over: who could run all the time, and did not, waits still. */
function waited_ms(before: ThreadTimes | undefined, now: ThreadTimes, elapsed_ms: number): number {
  if (before === undefined) return 0;
  const hasStarved = before.isRunnable && now.isRunnable && now.run_ns === before.run_ns;
  return hasStarved ? elapsed_ms : (now.wait_ns - before.wait_ns) / 1e6;
}

const percent = (share: number): number => Math.max(0, Math.min(100, Math.round(100 * share)));
