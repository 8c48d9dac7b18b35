/**
 * What a generation's life looks like as spans: the request, and in it queue, prefill, transfer (where prefill and decode are apart) and decode of each task.
 * Names and attributes are vLLM's and those of OpenTelemetry's conventions for generative AI. No prompt and no text is in them.
 * @module
 */
import type { GenerateOptions } from '../options/options.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Generation } from '../results.ts';
import type { Clock } from './clock.ts';
import type { Span, SpanExporter } from './otlp.ts';

/** Where a request comes from, as the W3C's `traceparent` header says. */
export type TraceParent = { readonly trace_id: string; readonly span_id: string; readonly isSampled: boolean };

const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/;

/** Null where there is none, or none that can be understood, which is to be ignored. */
export function parseTraceParent(header: string | null | undefined): TraceParent | null {
  const [, trace_id, span_id, flags] = TRACEPARENT.exec(header ?? '') ?? [];
  if (trace_id === undefined || span_id === undefined || flags === undefined) return null;
  return { trace_id, span_id, isSampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** Who asked, over which route. */
export type TracedCall = { readonly id: string; readonly operation: 'chat' | 'text_completion'; readonly parent: TraceParent | null };

/** Follows one generation, from now on, and exports its spans when it has ended. */
export type SpanObserver = { end(error: unknown): void };

export class Traces {
  readonly #exporter: SpanExporter;
  readonly #clock: Clock;
  readonly #model: string;

  constructor(exporter: SpanExporter, clock: Clock, model: string) {
    this.#exporter = exporter;
    this.#clock = clock;
    this.#model = model;
  }

  /** Called as the generation begins: that ties its own clock to the calendar. Null: its caller does not sample this trace. */
  observe(generation: Generation, options: GenerateOptions, call: TracedCall): SpanObserver | null {
    if (call.parent?.isSampled === false) return null;
    const trace_id = call.parent?.trace_id ?? this.#clock.newId();
    const offset_ms = this.#clock.unix_ms() - generation.times().received;
    return {
      end: (error) => {
        const { finished } = generation.times();
        // A generation that its caller has left may not have heard of its end yet.
        const ended = finished > 0 ? finished : this.#clock.unix_ms() - offset_ms;
        const request = this.#request(generation, options, call, trace_id, ended, error);
        const spans = [request, ...this.#phases(generation, request)];
        this.#exporter.export(spans.map((span) => ({ ...span, start_ms: span.start_ms + offset_ms, end_ms: span.end_ms + offset_ms })));
      },
    };
  }

  #request(generation: Generation, options: GenerateOptions, call: TracedCall, trace_id: string, ended: number, error: unknown): Span {
    const { received, scheduled, first_token } = generation.times();
    const { prompt_tokens, completion_tokens, cached_tokens } = generation.usage();
    const choices = generation.choices();
    const since = (from: number | null, to: number | null): number | null => (from === null || to === null ? null : (to - from) / 1_000);
    const attributes = {
      'gen_ai.operation.name': call.operation,
      'gen_ai.request.id': call.id,
      'gen_ai.request.model': this.#model,
      'gen_ai.response.model': this.#model,
      'gen_ai.request.n': options.n ?? 1,
      'gen_ai.request.max_tokens': options.max_tokens,
      'gen_ai.request.temperature': options.temperature,
      'gen_ai.request.top_p': options.top_p,
      'gen_ai.usage.num_sequences': choices.length,
      // vLLM's two names, and the conventions'.
      'gen_ai.usage.prompt_tokens': prompt_tokens,
      'gen_ai.usage.input_tokens': prompt_tokens,
      'gen_ai.usage.completion_tokens': completion_tokens,
      'gen_ai.usage.output_tokens': completion_tokens,
      'gen_ai.usage.cached_tokens': cached_tokens,
      'gen_ai.latency.time_in_queue': since(received, scheduled),
      'gen_ai.latency.time_to_first_token': since(received, first_token),
      'gen_ai.latency.e2e': since(received, ended),
      'gen_ai.latency.time_in_model_prefill': since(scheduled, first_token),
      'gen_ai.latency.time_in_model_decode': since(first_token, ended),
      'gen_ai.latency.time_in_model_inference': since(scheduled, ended),
      'error.type': error === null ? null : error instanceof MinipodError ? error.code : 'internal',
    };
    return {
      ...{ trace_id, span_id: this.#newSpanId(), parent_span_id: call.parent?.span_id ?? null, name: 'llm_request', kind: 'server' },
      ...{ start_ms: received, end_ms: ended, attributes, error: error === null ? null : error instanceof Error ? error.message : String(error) },
    };
  }

  #phases(generation: Generation, request: Span): Span[] {
    const { received, scheduled } = generation.times();
    const ended = request.end_ms;
    const phase = (name: string, start_ms: number, end_ms: number, attributes: Span['attributes']): Span => ({
      ...{ trace_id: request.trace_id, span_id: this.#newSpanId(), parent_span_id: request.span_id, name, kind: 'internal' },
      ...{ start_ms, end_ms, attributes, error: null },
    });
    const queue = phase('queue', received, scheduled ?? ended, {});
    if (scheduled === null) return [queue];
    const ofChoices = generation.choices().flatMap(({ choice, prefill_group, decode_group, first_token, moved, finished: last_token }) => {
      const where = (group: number | null) => ({ 'minipod.choice': choice, 'minipod.dp_group': group });
      const prefill = phase('prefill', scheduled, first_token ?? ended, where(prefill_group));
      if (first_token === null) return [prefill];
      const transfer = moved === null ? [] : [phase('transfer', first_token, moved, { ...where(decode_group), 'minipod.from_dp_group': prefill_group })];
      return [prefill, ...transfer, phase('decode', moved ?? first_token, last_token ?? ended, where(decode_group))];
    });
    return [queue, ...ofChoices];
  }

  #newSpanId(): string {
    return this.#clock.newId().slice(0, 16);
  }
}
