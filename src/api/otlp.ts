/**
 * Spans to an OpenTelemetry collector, as OTLP over HTTP in JSON (opentelemetry-proto, trace/v1). Written here since the official SDK and its exporter are
 * 28 MB of packages for one POST; test/api/traces.test.ts holds what is sent against what the official encoder made of the same spans.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { VERSION } from '../protocol/version.ts';
import type { Clock } from './clock.ts';

export type AttributeValue = string | number | boolean;
export type Span = {
  /** 32 and 16 lowercase hexadecimal digits. */
  readonly trace_id: string;
  readonly span_id: string;
  readonly parent_span_id: string | null;
  readonly name: string;
  readonly kind: 'server' | 'internal';
  /** Milliseconds since 1970, with fractions. */
  readonly start_ms: number;
  readonly end_ms: number;
  readonly attributes: Readonly<Record<string, AttributeValue | null | undefined>>;
  /** What it failed of. */
  readonly error: string | null;
};

/** The limits of OpenTelemetry's own batch span processor. */
export const EXPORT_LIMITS = { queue_max: 2_048, batch_max: 512, delay_ms: 5_000, timeout_ms: 10_000 } as const;
/** At the end, for all that waits: a server that is told to go is killed where it takes long. */
const CLOSE_MS = 2_000;

const KIND = { internal: 1, server: 2 } as const;
const STATUS_UNSET = 0;
const STATUS_ERROR = 2;

/** OTLP has no number: whole ones are int64, all others doubles. Nothing of what is not there. */
function keyValues(attributes: Span['attributes']): object[] {
  return Object.entries(attributes).flatMap(([key, value]): object[] => {
    if (value === null || value === undefined) return [];
    if (typeof value === 'string') return [{ key, value: { stringValue: value } }];
    if (typeof value === 'boolean') return [{ key, value: { boolValue: value } }];
    return [{ key, value: Number.isInteger(value) ? { intValue: value } : { doubleValue: value } }];
  });
}

/** A float64 holds milliseconds since 1970 to a quarter of a microsecond, nanoseconds not at all. */
const nanoseconds = (ms: number): string => `${Math.round(ms * 1_000)}000`;

/** The body of one POST. */
export const tracesRequest = (spans: readonly Span[]): object => ({
  resourceSpans: [
    {
      resource: { attributes: keyValues({ 'service.name': 'minipod', 'service.version': VERSION }) },
      scopeSpans: [
        {
          scope: { name: 'minipod', version: VERSION },
          spans: spans.map(({ trace_id, span_id, parent_span_id, name, kind, start_ms, end_ms, attributes, error }) => ({
            traceId: trace_id,
            spanId: span_id,
            ...(parent_span_id !== null && { parentSpanId: parent_span_id }),
            name,
            kind: KIND[kind],
            startTimeUnixNano: nanoseconds(start_ms),
            endTimeUnixNano: nanoseconds(end_ms),
            attributes: keyValues(attributes),
            status: error === null ? { code: STATUS_UNSET } : { code: STATUS_ERROR, message: error },
          })),
        },
      ],
    },
  ],
});

/** `fetch` says no more than that it failed; of what, says its cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  if (!(cause instanceof Error)) return message;
  // Where a name has several addresses there is one failure for each.
  const [first = cause] = cause instanceof AggregateError ? cause.errors : [];
  return `${message}: ${reasonOf(first)}`;
}

/** Sends spans in batches, in the background. A collector that does not answer costs its spans and holds nothing up. */
export class SpanExporter {
  readonly #endpoint: string;
  readonly #clock: Clock;
  readonly #onFailed: (error: MinipodError, request_id: null) => void;
  /** What is not sent by now is lost. */
  readonly #ended = new AbortController();
  #queue: Span[] = [];
  #sending: Promise<void> | null = null;
  /** While more spans are waited for: aborted, they are sent as they are. */
  #gathering: AbortController | null = null;
  #isClosed = false;
  /** Since one was sent last. */
  #lost = 0;
  #lost_in_all = 0;
  /** Of them, those that an error has told of. */
  #lost_told = 0;
  #isFailing = false;
  #isOverflowing = false;

  constructor(endpoint: string, clock: Clock, onFailed: (error: MinipodError, request_id: null) => void) {
    this.#endpoint = endpoint;
    this.#clock = clock;
    this.#onFailed = onFailed;
  }

  export(spans: readonly Span[]): void {
    for (const span of spans) {
      if (this.#queue.length < EXPORT_LIMITS.queue_max) this.#queue.push(span);
      else this.#lose(1);
    }
    // Who waits longer than for a whole batch has no room for what comes meanwhile.
    if (this.#queue.length >= EXPORT_LIMITS.batch_max) this.#gathering?.abort();
    this.#sending ??= this.#sendAll();
  }

  /** Sends what waits, for two seconds at most. Then it is known how many were lost after those that were told of, and said. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#gathering?.abort();
    const sent = new AbortController();
    this.#clock.sleep(CLOSE_MS, sent.signal).then(() => this.#ended.abort(new Error(`not within ${CLOSE_MS / 1_000} s`)));
    await this.#sending;
    sent.abort();
    if (this.#lost_in_all === this.#lost_told) return;
    this.#lost_told = this.#lost_in_all;
    this.#onFailed(new MinipodError('internal', `${this.#lost_in_all} spans in all were not sent to ${this.#endpoint}, and are lost`), null);
  }

  #lose(spans: number): void {
    this.#lost += spans;
    this.#lost_in_all += spans;
  }

  async #sendAll(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        if (this.#queue.length < EXPORT_LIMITS.batch_max && !this.#isClosed) await this.#gather();
        await this.#send(this.#queue.splice(0, EXPORT_LIMITS.batch_max));
      }
    } finally {
      this.#sending = null;
    }
  }

  async #gather(): Promise<void> {
    this.#gathering = new AbortController();
    await this.#clock.sleep(EXPORT_LIMITS.delay_ms, this.#gathering.signal);
    this.#gathering = null;
  }

  async #send(spans: readonly Span[]): Promise<void> {
    try {
      const response = await fetch(this.#endpoint, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(tracesRequest(spans)),
        signal: AbortSignal.any([AbortSignal.timeout(EXPORT_LIMITS.timeout_ms), this.#ended.signal]),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`it answered ${response.status}`);
      this.#hasSent();
    } catch (error) {
      this.#lose(spans.length);
      // Once, until it has worked again: a collector that is down would fill the log.
      if (this.#isFailing) return;
      this.#isFailing = true;
      this.#lost_told += this.#lost;
      const why = `${this.#lost} spans could not be sent to ${this.#endpoint}, and are lost: ${reasonOf(error)}`;
      this.#onFailed(new MinipodError('internal', why, { cause: error }), null);
    }
  }

  /** What there was no room for meanwhile is said once, too, until there was room for all; unless it has to do with a failure that was. */
  #hasSent(): void {
    const [lost, wasFailing, wasOverflowing] = [this.#lost, this.#isFailing, this.#isOverflowing];
    this.#lost = 0;
    this.#isFailing = false;
    this.#isOverflowing = lost > 0 && !wasFailing;
    if (!this.#isOverflowing || wasOverflowing) return;
    this.#lost_told += lost;
    const why = `${lost} spans are lost: ${EXPORT_LIMITS.queue_max} waited already to be sent to ${this.#endpoint}, which takes them too slowly`;
    this.#onFailed(new MinipodError('internal', why), null);
  }
}
