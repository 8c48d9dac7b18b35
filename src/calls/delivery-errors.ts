/**
 * Why a call ends without all of its tokens, where its caller's side finds that (delivery.ts).
 * @module
 */
import type { ErrorRecord } from '../protocol/errors.ts';

/** Control threads that one call may outlive without a token in between. */
export const PODS_MAX = 3;
/** What the pod did not let in. */
export const REFUSALS: ReadonlySet<string> = new Set(['overloaded', 'invalid_request']);
export const CANCELLED: ErrorRecord = { code: 'cancelled', message: 'the caller cancelled the request', param: null };
export const STRANDED: ErrorRecord = {
  code: 'worker_failed',
  message: 'a worker died that had computed tokens of it, before they were delivered, and there was no room to record it; the request may be sent again',
  param: null,
};

export const SCORES_LOST: ErrorRecord = {
  code: 'worker_failed',
  message: 'a worker died that had scored the prompt of the request, before all of that was delivered; it may be sent again',
  param: null,
};
export const STRANDED_WITH_POD: ErrorRecord = {
  code: 'worker_failed',
  message: "the pod's control thread was lost, and there was no room to record the request; it may be sent again",
  param: null,
};
export const LATE: ErrorRecord = {
  code: 'deadline_exceeded',
  message: 'the request has not ended within its deadline_ms: that was over while nobody was there to go on with it, since the control thread was lost',
  param: 'deadline_ms',
};
export const LOST_TOO_OFTEN: ErrorRecord = {
  code: 'worker_failed',
  message: `the pod's control thread was lost ${PODS_MAX} times in a row before another token of the request came; it may be what kills it`,
  param: null,
};
