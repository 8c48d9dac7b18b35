/**
 * Whether threads get on with their work, and whether they can: what heartbeats go by beside the answers (actors/policies/heartbeats.ts).
 *
 * A thread that waits for a processor answers as little as one that hangs, and on a crowded machine for as long. So silence counts as far as the thread could have
 * ended it: wholly while it sleeps at its bell, or where nobody knows; by the time that it was given while it is runnable; not at all before it has begun.
 *
 * One that sleeps elsewhere may wait for another thread that waits for a processor: V8 has a lock that all threads of a process take when they give its helpers
 * something to compile or to collect, and one for all that sleep in Atomics.wait. Whoever is put off its processor with one of these holds up the others, on
 * a crowded machine for hundreds of milliseconds (seen in their stacks, Node 24). So such sleep counts as far as no thread of the process had to wait, and by a tenth
 * at least: who is blocked for good is found on the most crowded machine, ten times as late. Or it sleeps where it should, and whoever rang its bell has been put off
 * between that and waking it: so it is woken.
 *
 * Where that sleep did not end in between, whoever it is for has not been given a processor either: of the others' waits the longest alone is in question, not
 * their sum. Three threads that share two processors wait a third of the time, and never for longer than some milliseconds.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { ownThreadId, type ThreadTimes, threadTimes, timesOfAll } from '../runtime/os-thread.ts';

/** `share`: of the time since it was looked at last, in percent, that counts as its own. */
export type Progress = { readonly word: number; readonly share: number };
/** In so much of a beat's time a thread that is well would have answered. */
const ENOUGH_SHARE = 0.5;
/** Nobody who starves has a lock for ever: waits of a second were seen, where thirty others waited for two processors. */
const ASLEEP_SHARE_MIN = 0.1;
/** Who was not looked at for so long is looked at as if for the first time. */
const STALE_MS = 250;

/** `id`: of the thread that sat there. */
type Look = { readonly at_ms: number; readonly id: number; readonly times: ThreadTimes | null; readonly share: number };
/** How long that thread of the process waited for a processor that waited longest: in all, and at a stretch. */
type Waits = { readonly all_ms: number; readonly stretch_ms: number };
/** At all threads of the process. */
type WideLook = { readonly at_ms: number; readonly times: ReadonlyMap<number, ThreadTimes>; readonly elapsed_ms: number; readonly waits: Waits };
export type ThreadProgressPorts = {
  readonly control: Pick<ControlPage, 'progressOf' | 'osThreadOf' | 'isMarkedAsleep' | 'nudge'>;
  readonly timesOf?: typeof threadTimes;
  readonly timesOfAll?: typeof timesOfAll;
  readonly ownThreadId?: typeof ownThreadId;
};

export class ThreadProgress {
  readonly #ports: Required<ThreadProgressPorts>;
  /** By who asks, and thread. */
  readonly #looks = new Map<string, Look>();
  /** By who asks. */
  readonly #wideLooks = new Map<string, WideLook>();
  /** Missing: not asked for yet. 0: this system says nothing of threads. */
  #ownId: number | undefined;

  constructor(ports: ThreadProgressPorts) {
    this.#ports = { timesOf: threadTimes, timesOfAll, ownThreadId, ...ports };
  }

  /** `at_ms`: the same for all that the asker asks for at once. */
  of(asker: string, thread: number, at_ms: number): Progress {
    const { control, timesOf } = this.#ports;
    const key = `${asker} ${thread}`;
    const last = this.#looks.get(key);
    const word = control.progressOf(thread);
    // Several of those who are asked for live there.
    if (last?.at_ms === at_ms) return { word, share: last.share };
    const id = control.osThreadOf(thread);
    const times = timesOf(id);
    const isFirst = last === undefined || last.id !== id || at_ms - last.at_ms > STALE_MS;
    const share = this.#shareOf(asker, thread, { at_ms, now: times, last: isFirst ? null : last });
    this.#looks.set(key, { at_ms, id, times, share });
    return { word, share };
  }

  /** `last`: null: it was not looked at before. */
  #shareOf(
    asker: string,
    thread: number,
    { at_ms, now, last }: { readonly at_ms: number; readonly now: ThreadTimes | null; readonly last: Look | null },
  ): number {
    if (now === null && this.#hasNotBegun(thread)) return 0;
    const isElsewhere = now !== null && !now.isRunnable && !this.#ports.control.isMarkedAsleep(thread);
    if (isElsewhere) this.#ports.control.nudge(thread);
    const wide = isElsewhere ? this.#lookWide(asker, at_ms) : null;
    if (last === null) return 0;
    if (last.times === null || now === null) return 100;
    if (now.isRunnable) return percent((now.run_ns - last.times.run_ns) / 1e6 / ((at_ms - last.at_ms) * ENOUGH_SHARE));
    if (wide === null) return 100;
    if (wide.elapsed_ms > STALE_MS) return 0;
    const hasSleptOn = !last.times.isRunnable && last.times.turns === now.turns;
    const waited_ms = hasSleptOn ? wide.waits.stretch_ms : wide.waits.all_ms;
    return percent(Math.max(ASLEEP_SHARE_MIN, 1 - waited_ms / wide.elapsed_ms));
  }

  /** Where threads are known. One that has ended was known. */
  #hasNotBegun(thread: number): boolean {
    this.#ownId ??= this.#ports.ownThreadId();
    return this.#ownId !== 0 && this.#ports.control.osThreadOf(thread) === 0;
  }

  /** Takes half a millisecond, where somebody sleeps so. */
  #lookWide(asker: string, at_ms: number): WideLook {
    const last = this.#wideLooks.get(asker);
    if (last?.at_ms === at_ms) return last;
    const times = this.#ports.timesOfAll();
    const elapsed_ms = last === undefined ? Number.POSITIVE_INFINITY : at_ms - last.at_ms;
    const waits = [...times].map(([id, now]) => waitsOf(last?.times.get(id), now, elapsed_ms));
    const look = {
      at_ms,
      times,
      elapsed_ms,
      waits: { all_ms: longest(waits.map(({ all_ms }) => all_ms)), stretch_ms: longest(waits.map(({ stretch_ms }) => stretch_ms)) },
    };
    this.#wideLooks.set(asker, look);
    return look;
  }
}

/** A wait is in the count when it is over: who could run all the time, and did not, waits still. */
function waitsOf(before: ThreadTimes | undefined, now: ThreadTimes, elapsed_ms: number): Waits {
  if (before === undefined) return { all_ms: 0, stretch_ms: 0 };
  const hasStarved = before.isRunnable && now.isRunnable && now.run_ns === before.run_ns;
  const all_ms = hasStarved ? elapsed_ms : (now.wait_ns - before.wait_ns) / 1e6;
  return { all_ms, stretch_ms: all_ms / Math.max(1, now.turns - before.turns) };
}

const longest = (waits_ms: readonly number[]): number => Math.max(0, ...waits_ms);
const percent = (share: number): number => Math.max(0, Math.min(100, Math.round(100 * share)));
