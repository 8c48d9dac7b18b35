/**
 * What is known of recent acts, by thread and number: when they happened, or where they stand. Asked for the cause of a later one.
 * @module
 */
import type { ActRecord } from '../act-record.ts';

/** Of each thread. What an act leads to is delivered long before its thread has acted as often again, but for timers. */
const ACTS_KEPT = 1 << 16;

type Recent = { readonly numbers: Float64Array; readonly values: Float64Array };

/** Holds one number for each of the last acts of every thread: a time, or a row. */
export class RecentActs {
  readonly #threads = new Map<number, Recent>();

  note({ thread, number }: ActRecord, value: number): void {
    let recent = this.#threads.get(thread);
    if (recent === undefined) {
      recent = { numbers: new Float64Array(ACTS_KEPT), values: new Float64Array(ACTS_KEPT) };
      this.#threads.set(thread, recent);
    }
    recent.numbers[number % ACTS_KEPT] = number;
    recent.values[number % ACTS_KEPT] = value;
  }

  /** What was noted of the act's cause; null: it came from outside, is not in the trace, or was too long ago. */
  ofCause({ cause_thread, cause }: ActRecord): number | null {
    const recent = this.#threads.get(cause_thread);
    if (cause === 0 || recent === undefined || recent.numbers[cause % ACTS_KEPT] !== cause) return null;
    return recent.values[cause % ACTS_KEPT] ?? null;
  }
}
