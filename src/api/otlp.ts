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

/** Sends spans in batches, in the background. A collector that does not answer costs its spans and holds nothing up. */
export class SpanExporter {
  readonly #endpoint: string;
  readonly #clock: Clock;
  readonly #onFailed: (error: MinipodError, request_id: null) => void;
  readonly #closed = new AbortController();
  /** What is not sent by now is lost. */
  readonly #ended = new AbortController();
  #queue: Span[] = [];
  #sending: Promise<void> | null = null;
  #lost = 0;
  #isFailing = false;

  constructor(endpoint: string, clock: Clock, onFailed: (error: MinipodError, request_id: null) => void) {
    this.#endpoint = endpoint;
    this.#clock = clock;
    this.#onFailed = onFailed;
  }

  export(spans: readonly Span[]): void {
    for (const span of spans) {
      if (this.#queue.length < EXPORT_LIMITS.queue_max) this.#queue.push(span);
      else this.#lost++;
    }
    this.#sending ??= this.#sendAll();
  }

  /** Sends what waits, for two seconds at most. */
  async close(): Promise<void> {
    this.#closed.abort();
    const sent = new AbortController();
    this.#clock.sleep(CLOSE_MS, sent.signal).then(() => this.#ended.abort(new Error(`not within ${CLOSE_MS / 1_000} s`)));
    await this.#sending;
    sent.abort();
  }

  async #sendAll(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        if (this.#queue.length < EXPORT_LIMITS.batch_max) await this.#clock.sleep(EXPORT_LIMITS.delay_ms, this.#closed.signal);
        await this.#send(this.#queue.splice(0, EXPORT_LIMITS.batch_max));
      }
    } finally {
      this.#sending = null;
    }
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
      this.#isFailing = false;
      this.#lost = 0;
    } catch (error) {
      this.#lost += spans.length;
      // Once, until it has worked again: a collector that is down would fill the log.
      if (this.#isFailing) return;
      this.#isFailing = true;
      const why = error instanceof Error ? error.message : String(error);
      this.#onFailed(new MinipodError('internal', `${this.#lost} spans could not be sent to ${this.#endpoint}, and are lost: ${why}`, { cause: error }), null);
    }
  }
}
