import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/api/clock.ts';
import { type ApiServer, type ServeOptions, serve } from '../../src/api/index.ts';
import { EXPORT_LIMITS, type Span, SpanExporter, tracesRequest } from '../../src/api/otlp.ts';
import { parseTraceParent } from '../../src/api/traces.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { type Collector, spansOf, startCollector } from './collector.ts';
import { FakePod, type Faults } from './fake-pod.ts';
import official from './official-otlp.json' with { type: 'json' };

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';
const SPAN: Span = {
  ...{ trace_id: TRACE, span_id: '00f067aa0ba902b7', parent_span_id: null, name: 'llm_request', kind: 'server' },
  ...{ start_ms: 0, end_ms: 1, attributes: {}, error: null },
};

describe('spans of requests', () => {
  const open: AsyncDisposable[] = [];
  afterEach(async () => {
    for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
  });

  async function start(faults: Faults = {}, options: Partial<ServeOptions> = {}): Promise<{ collector: Collector; server: ApiServer }> {
    const collector = await startCollector();
    open.push(collector);
    const server = await serve({ port: 0, onError: () => {}, otlp_traces_endpoint: collector.url, ...options, pod: new FakePod(faults) });
    open.push({ [Symbol.asyncDispose]: async () => void (await server.close()) });
    return { collector, server };
  }

  /** Its time stands still: nothing is sent because it has waited for long. */
  async function startExporter(): Promise<{ collector: Collector; exporter: SpanExporter; errors: string[] }> {
    const collector = await startCollector();
    open.push(collector);
    const errors: string[] = [];
    const still = { ...systemClock, sleep: (_ms: number, signal?: AbortSignal) => systemClock.sleep(2 ** 31 - 1, signal) };
    return { collector, errors, exporter: new SpanExporter(collector.url, still, ({ message }) => errors.push(message)) };
  }

  const spans = (count: number): Span[] => Array.from({ length: count }, () => SPAN);
  const sizesOf = ({ bodies }: Collector): number[] => bodies.map((body) => spansOf([body]).length);

  const complete = async ({ url }: ApiServer, body: object, headers: Record<string, string> = {}): Promise<string> => {
    const init = {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': 'r1', ...headers },
      body: JSON.stringify({ prompt: 'x', ...body }),
    };
    return (await fetch(`${url}/v1/completions`, init)).text();
  };

  it('should tell the life of a request in the trace of its caller: queue, prefill, transfer and decode of each choice', async () => {
    const { collector, server } = await start({ delay_ms: 2, disaggregated: true });
    const before = Date.now();
    await complete(server, { max_tokens: 4, n: 2, temperature: 0.5, ignore_eos: true }, { traceparent: `00-${TRACE}-${PARENT}-01` });
    await server.close();
    const [request, ...phases] = spansOf(collector.bodies);
    expect(request).toMatchObject({ name: 'llm_request', kind: 2, traceId: TRACE, parentSpanId: PARENT, status: { code: 0 } });
    expect(request?.attributes).toMatchObject({
      ...{ 'gen_ai.request.id': 'cmpl-r1', 'gen_ai.operation.name': 'text_completion', 'gen_ai.response.model': 'fake', 'gen_ai.request.n': 2 },
      ...{ 'gen_ai.request.temperature': 0.5, 'gen_ai.request.max_tokens': 4, 'gen_ai.usage.prompt_tokens': 2, 'gen_ai.usage.completion_tokens': 8 },
    });
    expect(request?.attributes['gen_ai.latency.time_to_first_token']).toBeGreaterThan(0);
    expect(request?.attributes['gen_ai.latency.e2e']).toBeCloseTo(((request?.end_ms ?? 0) - (request?.start_ms ?? 0)) / 1_000, 3);
    expect(phases.map(({ name, attributes }) => [name, attributes['minipod.choice'], attributes['minipod.dp_group']])).toEqual([
      ['queue', undefined, undefined],
      ...[0, 1].flatMap((choice) => [
        ['prefill', choice, 0],
        ['transfer', choice, 1],
        ['decode', choice, 1],
      ]),
    ]);
    for (const { traceId, parentSpanId, kind, start_ms, end_ms } of phases) {
      expect([traceId, parentSpanId, kind]).toEqual([TRACE, request?.spanId, 1]);
      expect([before - 1, request?.start_ms, start_ms, end_ms, request?.end_ms]).toEqual(
        [before - 1, request?.start_ms, start_ms, end_ms, request?.end_ms].toSorted((a, b) => Number(a) - Number(b)),
      );
    }
    expect(new Set([request, ...phases].map((span) => span?.spanId)).size).toBe(8);
  });

  it('should tell what a request failed of, and of one whose client left', async () => {
    const { collector, server } = await start({ fail_after: { chunks: 1, error: new MinipodError('worker_failed', 'worker 2 died') } });
    await complete(server, { max_tokens: 4, ignore_eos: true, stream: true });
    await server.close();
    expect(spansOf(collector.bodies)[0]).toMatchObject({ status: { code: 2, message: 'worker 2 died' }, attributes: { 'error.type': 'worker_failed' } });
    const slow = await start({ delay_ms: 20 });
    const abort = new AbortController();
    const response = await fetch(`${slow.server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'x', max_tokens: 400, ignore_eos: true, stream: true }),
      signal: abort.signal,
    });
    abort.abort();
    await response.text().catch(() => {});
    await expect.poll(() => slow.server.active).toBe(0);
    await slow.server.close();
    const [request, ...phases] = spansOf(slow.collector.bodies);
    expect(request).toMatchObject({ status: { code: 2 }, attributes: { 'error.type': 'cancelled' } });
    expect(phases.map(({ name }) => name)).toEqual(['queue', 'prefill', 'decode']);
    for (const { end_ms } of phases) expect(end_ms).toBeLessThanOrEqual(request?.end_ms ?? 0);
  });

  it('should make none for a caller that does not sample, and a trace of its own where there is no caller', async () => {
    const { collector, server } = await start();
    await complete(server, { max_tokens: 1 }, { traceparent: `00-${TRACE}-${PARENT}-00` });
    await complete(server, { max_tokens: 1 }, { traceparent: 'rubbish' });
    await server.close();
    const spans = spansOf(collector.bodies);
    expect(spans.filter(({ name }) => name === 'llm_request')).toHaveLength(1);
    expect(spans[0]?.traceId).toMatch(/^[0-9a-f]{32}$/);
    expect(spans[0]?.traceId).not.toBe(TRACE);
    expect(spans[0]?.parentSpanId).toBeUndefined();
  });

  it('should serve on where the collector does not, and say so once', async () => {
    const errors: string[] = [];
    const { collector, server } = await start({}, { onError: (error, request_id) => errors.push(`${request_id} ${(error as Error).message}`) });
    collector.status = 503;
    expect(await complete(server, { max_tokens: 1 })).toMatch(/"completion_tokens":1/);
    await server.close();
    expect(errors).toEqual([`null 4 spans could not be sent to ${collector.url}, and are lost: it answered 503`]);
  });

  it('should not be held up at its end by a collector that does not answer, however much waits', async () => {
    const collector = createServer(() => {});
    await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
    const errors: string[] = [];
    const url = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`;
    const hurried = { ...systemClock, sleep: async () => {} };
    const exporter = new SpanExporter(url, hurried, ({ message }) => errors.push(message));
    exporter.export(spans(2 * EXPORT_LIMITS.batch_max));
    await exporter.close();
    expect(errors).toEqual([
      `${EXPORT_LIMITS.batch_max} spans could not be sent to ${url}, and are lost: not within 2 s`,
      `${2 * EXPORT_LIMITS.batch_max} spans in all were not sent to ${url}, and are lost`,
    ]);
    collector.closeAllConnections();
    collector.close();
  });

  it('should send a batch as soon as it is whole, and what is left at its end', async () => {
    const { collector, exporter, errors } = await startExporter();
    for (let i = 0; i < 3; i++) exporter.export(spans(300));
    await expect.poll(() => collector.bodies.length).toBe(1);
    await exporter.close();
    expect([sizesOf(collector), errors]).toEqual([[512, 388], []]);
  });

  it('should wait for nothing more where it ends while it sends', async () => {
    const { collector, exporter, errors } = await startExporter();
    exporter.export(spans(600));
    await exporter.close();
    expect([sizesOf(collector), errors]).toEqual([[512, 88], []]);
  });

  it('should say once what there was no room for', async () => {
    const { collector, exporter, errors } = await startExporter();
    exporter.export(spans(EXPORT_LIMITS.queue_max + 7));
    await exporter.close();
    expect(sizesOf(collector)).toEqual([512, 512, 512, 512]);
    expect(errors).toEqual([`7 spans are lost: 2048 waited already to be sent to ${collector.url}, which takes them too slowly`]);
  });

  it('should say at its end how many were lost in all, once, where that is more than was said', async () => {
    const { collector, exporter, errors } = await startExporter();
    const send = async (count: number, posts: number): Promise<void> => {
      exporter.export(spans(count));
      await expect.poll(() => collector.posts).toBe(posts);
    };
    collector.status = 503;
    await send(EXPORT_LIMITS.batch_max, 1);
    await send(EXPORT_LIMITS.queue_max + 7, 5);
    collector.status = 200;
    await send(EXPORT_LIMITS.batch_max, 6);
    await exporter.close();
    await exporter.close();
    expect(errors).toEqual([
      `512 spans could not be sent to ${collector.url}, and are lost: it answered 503`,
      `${512 + EXPORT_LIMITS.queue_max + 7} spans in all were not sent to ${collector.url}, and are lost`,
    ]);
  });

  it('should say why a collector cannot be reached', async () => {
    const { collector, exporter, errors } = await startExporter();
    await collector[Symbol.asyncDispose]();
    exporter.export(spans(1));
    await exporter.close();
    expect(errors).toEqual([expect.stringMatching(/^1 spans could not be sent to \S+, and are lost: .*refused/i)]);
  });

  it('should refuse an endpoint that is no URL', async () => {
    await expect(start({}, { otlp_traces_endpoint: 'localhost' })).rejects.toMatchObject({ code: 'invalid_request', param: 'otlp_traces_endpoint' });
  });

  it("should be encoded as the official encoder does: @opentelemetry/otlp-transformer 0.223.1's JSON of the same two spans", () => {
    const common = { trace_id: TRACE, start_ms: 1_700_000_000_123.456, error: null };
    const request = { 'gen_ai.request.id': 'cmpl-1', 'gen_ai.usage.prompt_tokens': 7, 'gen_ai.request.temperature': 0.5, ok: true, 'error.type': null };
    const ours = tracesRequest([
      {
        ...common,
        ...{ span_id: '0000000000000001', parent_span_id: PARENT, name: 'llm_request', kind: 'server', end_ms: 1_700_000_001_000 },
        ...{ attributes: request, error: 'worker 2 died' },
      },
      {
        ...common,
        ...{ span_id: '0000000000000002', parent_span_id: '0000000000000001', name: 'queue', kind: 'internal', end_ms: 1_700_000_000_200 },
        attributes: {},
      },
    ]);
    expect(official).toMatchObject(ours);
  });
});

describe('traceparent', () => {
  it.each([
    [`00-${TRACE}-${PARENT}-01`, { trace_id: TRACE, span_id: PARENT, isSampled: true }],
    [`01-${TRACE}-${PARENT}-02-later`, { trace_id: TRACE, span_id: PARENT, isSampled: false }],
    [`ff-${TRACE}-${PARENT}-01`, null],
    [`00-${'0'.repeat(32)}-${PARENT}-01`, null],
    [`00-${TRACE}-${'0'.repeat(16)}-01`, null],
    [`00-${TRACE}-${PARENT}-01x`, null],
    [undefined, null],
  ])('should read %s as the W3C says', (header, expected) => {
    expect(parseTraceParent(header)).toEqual(expected);
  });
});
