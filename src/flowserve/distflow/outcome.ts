/**
 * How transfers end, and what they count.
 * @module
 */
import { type ErrorCode, MinipodError } from '../../protocol/errors.ts';

/** In the order in which they are shown. */
export const FAILURES = ['cancelled', 'refused', 'expired', 'stale', 'corrupt', 'source_lost', 'fault', 'link_broken', 'given_up'] as const;
/**
 *   cancelled     the puller's owner gave it up
 *   refused       the lease was not there to be claimed: pulled by another, expired, withdrawn
 *   expired       the holder fenced it while it was pulled
 *   stale         a block got new content before the copy was done
 *   corrupt       what arrived has another sum than what was offered
 *   source_lost   the source's region changed hands
 *   fault         the source or the target is no memory of theirs
 *   link_broken   the link to the source ended
 *   given_up      this end's own die was given up: it may write nothing any more
 */
export type FailureReason = (typeof FAILURES)[number];

export type Poll =
  | { readonly state: 'pending' }
  | { readonly state: 'done' }
  | { readonly state: 'failed'; readonly reason: FailureReason; readonly error: MinipodError };

export const PENDING: Poll = { state: 'pending' };
export const DONE: Poll = { state: 'done' };

const CODES: Readonly<Partial<Record<FailureReason, ErrorCode>>> = { cancelled: 'cancelled', expired: 'deadline_exceeded', fault: 'memory_fault' };
export const failed = (reason: FailureReason, what: string): Poll => ({
  ...{ state: 'failed', reason, error: new MinipodError(CODES[reason] ?? 'worker_failed', what) },
});

/** Why work failed: its memory is not there, or the link to it. */
export const reasonOf = (error: MinipodError | null): FailureReason => (error?.code === 'memory_fault' ? 'fault' : 'link_broken');

/** Of a link or of all. */
export type TransferCounters = {
  started: number;
  done: number;
  /** Of transfers that are done, and of those that failed underway. */
  bytes: number;
  wasted_bytes: number;
  readonly failed: Record<FailureReason, number>;
};
export const noTransfers = (): TransferCounters => ({
  ...{ started: 0, done: 0, bytes: 0, wasted_bytes: 0 },
  failed: Object.fromEntries(FAILURES.map((reason) => [reason, 0])) as Record<FailureReason, number>,
});

/** Adds what one link counted to a sum. */
export function addCounters(sum: TransferCounters, counters: TransferCounters): void {
  sum.started += counters.started;
  sum.done += counters.done;
  sum.bytes += counters.bytes;
  sum.wasted_bytes += counters.wasted_bytes;
  for (const reason of FAILURES) sum.failed[reason] += counters.failed[reason];
}
