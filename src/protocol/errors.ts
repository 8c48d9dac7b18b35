/**
 * Every error that minipod raises on purpose, in one place.
 * A message says what was wrong, where, and what would be right; the code is for programs.
 * @module
 */

/** What went wrong, by who can mend it. */
export type ErrorCode =
  /** The caller passed an option, a prompt or a sampling parameter that cannot be served. */
  | 'invalid_request'
  /** A checkpoint file is missing, malformed or does not fit its config. */
  | 'invalid_checkpoint'
  /** A trace file is missing, no trace, of a format that is not known, or its header is damaged. */
  | 'invalid_trace'
  /** A trace cannot be written: the file exists, or the disk is full or failed. */
  | 'trace_not_written'
  /** Options, model and memory do not fit together. */
  | 'out_of_memory'
  /** The prompt and the requested tokens exceed the context length. */
  | 'context_length_exceeded'
  /** A context is named that was never created, is deleted or over, or is of another `cache_salt`. */
  | 'context_not_found'
  /** The pod holds as many requests as it may; retry later. */
  | 'overloaded'
  /** The caller stopped the request (AbortSignal, or its client went away). */
  | 'cancelled'
  /** A worker failed while it held the request; the request may be sent again. */
  | 'worker_failed'
  /** The same inside the pod, of a thread that is gone: what it computed may be computed again elsewhere. No caller hears it. */
  | 'worker_lost'
  /** The same of a thread that was well, and was ended with one that was lost, since all begin anew: it speaks against no request. No caller hears it. */
  | 'worker_ended'
  /** Inside the pod, of a step: it waited for an NPU that is lost, and somebody whom it computed may not wait so long. It is as if it had never begun. No caller hears it. */
  | 'undone'
  /** Memory was touched that is not there, not one's own, freed, or of an epoch that is over: a defect, or a thread that was given up and still runs; or it went bad. */
  | 'memory_fault'
  /** Experts are lost with the NPUs that held them, no copy is left, and nobody can bring one back for now; the message says whether to send the request again helps. */
  | 'experts_lost'
  /** All DP groups that could compute it have lost an NPU, and nobody can bring one back for now; the message says whether to send the request again helps. */
  | 'groups_lost'
  /** The model computed NaN or infinity. */
  | 'not_finite'
  /** The pod is closed or closing. */
  | 'closed'
  /** A deadline passed; the message names what was waited for. */
  | 'deadline_exceeded'
  /** A defect of minipod itself. */
  | 'internal';

export class MinipodError extends Error {
  readonly code: ErrorCode;
  /** The option or parameter at fault, where there is one: `temperature`, `prompt`. */
  readonly param: string | null;
  /** With `overloaded`: when there is probably room, in milliseconds from now; null: not known. */
  readonly retry_after_ms: number | null;

  constructor(code: ErrorCode, message: string, options: { param?: string | null; retry_after_ms?: number | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'MinipodError';
    this.code = code;
    this.param = options.param ?? null;
    this.retry_after_ms = options.retry_after_ms ?? null;
  }
}

/** What lies in somebody's own memory is not what was put there: nothing that he computes counts, so nobody makes do with it, and he ends. */
export class UnsoundMemory extends MinipodError {
  constructor(message: string) {
    super('memory_fault', message);
  }
}

/** The plain form in which an error crosses a thread. */
export type ErrorRecord = { readonly code: ErrorCode; readonly message: string; readonly param: string | null; readonly retry_after_ms?: number };

export function toErrorRecord(error: unknown): ErrorRecord {
  if (error instanceof MinipodError) {
    const { code, message, param, retry_after_ms } = error;
    return retry_after_ms === null ? { code, message, param } : { code, message, param, retry_after_ms };
  }
  return { code: 'internal', message: error instanceof Error ? error.message : String(error), param: null };
}

export const fromErrorRecord = (record: ErrorRecord): MinipodError =>
  new MinipodError(record.code, record.message, { param: record.param, retry_after_ms: record.retry_after_ms });

/** Fails loudly at once when an invariant of minipod's own does not hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) invariantBroken(message);
}

/** Where a condition is looked at so often that no message may be made for it while it holds. */
export function invariantBroken(message: string): never {
  throw new MinipodError('internal', `invariant broken: ${message}`);
}
