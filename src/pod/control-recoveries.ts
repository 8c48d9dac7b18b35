/**
 * Which control threads were lost, and how long it took until their successors ran.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { ControlRecoveryStats } from '../stats.ts';

const KEPT_MAX = 64;
const MS_PER_S = 1_000;

type Recovery = { readonly at_ms: number; readonly reason: string; start_ms: number | null };

export class ControlRecoveries {
  readonly #latest: Recovery[] = [];
  /** Of all times. */
  lost_total = 0;

  lost(at_ms: number, reason: string): void {
    this.lost_total++;
    this.#latest.push({ at_ms, reason, start_ms: null });
    if (this.#latest.length > KEPT_MAX) this.#latest.shift();
  }

  /** The successor of the latest runs, and open calls go on. */
  started(now_ms: number): void {
    const latest = this.#latest.at(-1);
    if (latest !== undefined) latest.start_ms = now_ms - latest.at_ms;
  }

  /** For whoever asks the pod meanwhile. */
  error(now_ms: number): MinipodError {
    const { at_ms, reason } = this.#latest.at(-1) ?? { at_ms: now_ms, reason: '' };
    const seconds = ((now_ms - at_ms) / MS_PER_S).toFixed(1);
    return new MinipodError('deadline_exceeded', `the pod's control thread was lost ${seconds} s ago, and its successor does not run yet (${reason})`);
  }

  /** Why there is no other. */
  tooMany(cause: unknown, period_ms: number): MinipodError {
    const latest = cause instanceof Error ? cause.message : cause;
    return new MinipodError(
      'worker_failed',
      `the pod ends: its control thread was lost again and again, more often than a pod may go on from in ${period_ms / MS_PER_S} s; the latest: ${latest}`,
      { cause },
    );
  }

  /** The same where it takes them long to fail. */
  noneBegins(cause: unknown, attempts: number): MinipodError {
    const latest = cause instanceof Error ? cause.message : cause;
    return new MinipodError('worker_failed', `the pod ends: none of ${attempts} successors of its lost control thread has begun; the latest: ${latest}`, {
      cause,
    });
  }

  /** The latest last. */
  report(): readonly ControlRecoveryStats[] {
    return this.#latest.map(({ at_ms, reason, start_ms }) => ({ reason, lost_at_seconds: at_ms / MS_PER_S, start_ms }));
  }
}
