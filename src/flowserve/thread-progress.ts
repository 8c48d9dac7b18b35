/**
 * Whether threads get on with their work, and whether they can: what heartbeats go by beside the answers (actors/policies/heartbeats.ts).
 *
 * A thread that waits for a processor answers as little as one that hangs, and on a crowded machine for as long. So silence counts as far as the thread could have
 * ended it: wholly while it sleeps, or where nobody knows; by the time that it was given while it is runnable.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { type ThreadTimes, threadTimes } from '../runtime/os-thread.ts';

/** `share`: of the time since it was looked at last, in percent, that counts as its own. */
export type Progress = { readonly word: number; readonly share: number };
/** In so much of a beat's time a thread that is well would have answered. */
const ENOUGH_SHARE = 0.5;
/** Who was not looked at for so long is looked at as if for the first time. */
const STALE_MS = 250;

type Look = { readonly at_ms: number; readonly times: ThreadTimes | null; readonly share: number };

export class ThreadProgress {
  readonly #control: ControlPage;
  readonly #now_ms: () => number;
  /** By who asks, and thread. */
  readonly #looks = new Map<string, Look>();

  constructor(control: ControlPage, now_ms: () => number) {
    this.#control = control;
    this.#now_ms = now_ms;
  }

  of(asker: string, thread: number): Progress {
    const key = `${asker} ${thread}`;
    const at_ms = this.#now_ms();
    const last = this.#looks.get(key);
    const word = this.#control.progressOf(thread);
    // Several of those who are asked for live there.
    if (last !== undefined && at_ms - last.at_ms < 1) return { word, share: last.share };
    const times = threadTimes(this.#control.osThreadOf(thread));
    const share = last === undefined || at_ms - last.at_ms > STALE_MS ? 0 : shareOf(last.times, times, at_ms - last.at_ms);
    this.#looks.set(key, { at_ms, times, share });
    return { word, share };
  }
}

function shareOf(before: ThreadTimes | null, now: ThreadTimes | null, elapsed_ms: number): number {
  if (before === null || now === null || !now.isRunnable) return 100;
  const ran_ms = (now.run_ns - before.run_ns) / 1e6;
  return Math.max(0, Math.min(100, Math.round((100 * ran_ms) / (elapsed_ms * ENOUGH_SHARE))));
}
