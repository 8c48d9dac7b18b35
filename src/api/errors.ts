/**
 * Errors as OpenAI's clients know them: status, `{"error": {message, type, param, code}}`, and the headers that say whether to try again.
 * @module
 */
import { type ErrorCode, MinipodError } from '../protocol/errors.ts';

export type ApiErrorType = 'invalid_request_error' | 'authentication_error' | 'rate_limit_error' | 'server_error';
export type ApiErrorStatus = 400 | 401 | 403 | 404 | 405 | 410 | 413 | 415 | 429 | 499 | 500 | 503 | 504;
export type ApiErrorBody = {
  readonly error: { readonly message: string; readonly type: ApiErrorType; readonly param: string | null; readonly code: string | null };
};

export class ApiError extends Error {
  readonly status: ApiErrorStatus;
  readonly type: ApiErrorType;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: ApiErrorStatus,
    message: string,
    options: { param?: string | null; code?: string | null; headers?: Record<string, string>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ApiError';
    this.status = status;
    this.type = typeOf(status);
    this.param = options.param ?? null;
    this.code = options.code ?? null;
    this.headers = options.headers ?? {};
  }
}

export const invalid = (param: string, message: string, code: string | null = null): ApiError => new ApiError(400, `${param}: ${message}`, { param, code });

const typeOf = (status: ApiErrorStatus): ApiErrorType =>
  status >= 500 ? 'server_error' : status === 429 ? 'rate_limit_error' : status === 401 ? 'authentication_error' : 'invalid_request_error';

/** Both spellings: openai-node obeys milliseconds first, proxies know seconds only. */
export const retryAfter = (ms: number): Record<string, string> => ({
  'retry-after-ms': String(ms),
  'retry-after': String(Math.floor((ms + 999) / 1000)),
  'x-should-retry': 'true',
});

const NO_RETRY = { 'x-should-retry': 'false' };

/** How each of minipod's errors looks from outside. Whether to retry: yes where another attempt can end differently, no where it cannot. */
const ANSWERS: Readonly<Record<ErrorCode, Answer>> = {
  invalid_request: { status: 400 },
  context_length_exceeded: { status: 400 },
  context_not_found: { status: 404 },
  overloaded: { status: 429, headers: retryAfter(500) },
  cancelled: { status: 499, headers: NO_RETRY },
  worker_failed: { status: 500, headers: retryAfter(100) },
  worker_lost: { status: 500, headers: retryAfter(100) },
  worker_ended: { status: 500, headers: retryAfter(100) },
  undone: { status: 500, headers: retryAfter(100) },
  // Somebody is silent whose answer it takes: a thread that hangs, or a lost one's successor that does not run yet.
  deadline_exceeded: { status: 503, headers: retryAfter(500) },
  closed: { status: 503, headers: retryAfter(1000) },
  experts_lost: { status: 503, headers: retryAfter(1000) },
  groups_lost: { status: 503, headers: retryAfter(1000) },
  not_finite: { status: 500, headers: NO_RETRY },
  // A request that no NPU has KV blocks for.
  out_of_memory: { status: 400, headers: NO_RETRY },
  invalid_checkpoint: { status: 500, headers: NO_RETRY },
  invalid_trace: { status: 500, headers: NO_RETRY },
  trace_not_written: { status: 500, headers: NO_RETRY },
  memory_fault: { status: 500 },
  internal: { status: 500 },
};

type Answer = { readonly status: ApiErrorStatus; readonly headers?: Record<string, string> };

/** A deadline that the client has set itself passes the next time too. */
function answerTo(error: MinipodError): Answer {
  if (error.code === 'deadline_exceeded' && error.param !== null) return { status: 504, headers: NO_RETRY };
  if (error.retry_after_ms !== null) return { ...ANSWERS[error.code], headers: retryAfter(error.retry_after_ms) };
  return ANSWERS[error.code];
}

/** What anything thrown looks like from outside. A stranger's message may hold what is nobody's business, so it is for the log only. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof MinipodError))
    return new ApiError(500, 'The server failed on this request; its log says why, under the x-request-id of this answer.', { cause: error });
  const { status, headers } = answerTo(error);
  const code = error.code === 'invalid_request' ? null : error.code;
  return new ApiError(status, error.message, { param: error.param, code, cause: error, ...(headers && { headers }) });
}

export const errorBody = (error: ApiError): ApiErrorBody => ({ error: { message: error.message, type: error.type, param: error.param, code: error.code } });

export const errorResponse = (error: ApiError): Response => Response.json(errorBody(error), { status: error.status, headers: error.headers });
