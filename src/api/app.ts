/**
 * The HTTP API as a Hono app: a function from Request to Response over a pod, the same in every runtime.
 * @module
 * @example
 * const app = createApp(pod, { api_key: 'secret' });
 * const response = await app.request('/v1/models', { headers: { authorization: 'Bearer secret' } });
 */
import { type Context, type Handler, Hono } from 'hono';
import * as z from 'zod';
import { REASONING_PARSERS, TOOL_CALL_PARSERS } from '../flowserve/frontend/parsers/formats.ts';
import { parseOptions } from '../options/options.ts';
import type { Pod } from '../pod.ts';
import { MinipodError } from '../protocol/errors.ts';
import { VERSION } from '../protocol/version.ts';
import { Admission, type Lease } from './admission.ts';
import { bearerAuth } from './auth.ts';
import { type JsonObject, readJson, readJsonIfAny } from './body.ts';
import { chatCompletions } from './chat.ts';
import { type Clock, systemClock } from './clock.ts';
import { completions } from './completions.ts';
import { createContext, deleteContext, listContexts, retrieveContext } from './contexts.ts';
import { ApiError, errorResponse, invalid, toApiError } from './errors.ts';
import { EXPERT_METRICS, EXPERT_SERIES_MAX, type ExpertMetrics } from './expert-metrics.ts';
import { experts } from './experts.ts';
import { health } from './health.ts';
import { HiddenTokens } from './hidden-tokens.ts';
import { kvEvents } from './kv-events.ts';
import { createMetrics, type LookedAtExperts } from './metrics.ts';
import { listModels, retrieveModel } from './models.ts';
import type { SpanExporter } from './otlp.ts';
import { checkAdmin, isScaling, scale, scaleElastic } from './scale.ts';
import type { Call, Env, Service } from './service.ts';
import { isEventStream } from './sse.ts';
import { detokenize, tokenize } from './tokenize.ts';
import { parseTraceParent, Traces } from './traces.ts';

/** `force`: install the plan though it is predicted no better. */
const rebalanceSchema = z.strictObject({ force: z.boolean().default(false) });

export const appOptionsSchema = z.strictObject({
  /** Asked as `Authorization: Bearer …` of every request but /health and /version. Default: none is asked. */
  api_key: z.string().regex(/^\S+$/, 'must not be empty nor hold spaces').optional(),
  /** Larger request bodies are refused with 413. */
  body_limit_bytes: z
    .int()
    .min(1)
    .default(8 << 20),
  /** Completions and chats under way at once; more are refused with 429. */
  concurrency: z.int().min(1).default(4096),
  /** Chats: what a model of this family thinks before it answers is given apart from the answer. Default: it is part of it. vLLM's names. */
  reasoning_parser: z.enum(REASONING_PARSERS).optional(),
  /** Chats: the model may call tools where it wants to, in the format that `tool_call_parser` reads; each needs the other. */
  enable_auto_tool_choice: z.boolean().default(false),
  tool_call_parser: z.enum(TOOL_CALL_PARSERS).optional(),
  /** What /metrics tells of experts: by `layer`, or by `expert` too, unless that is more than 16,384 series. Default: nothing. */
  expert_metrics: z.enum(EXPERT_METRICS).optional(),
});

export type AppOptions = z.input<typeof appOptionsSchema> & {
  /** Hears of every failure that is not the caller's fault; `request_id` is null for one that is no request's. Default: standard error. */
  readonly onError?: ((error: unknown, request_id: string | null) => void) | undefined;
  readonly clock?: Clock | undefined;
};

export const reportOnConsole = (error: unknown, request_id: string | null): void =>
  request_id === null
    ? console.error(`minipod: ${error instanceof Error ? error.message : error}`)
    : console.error(`minipod: request ${request_id} failed:`, error);

type Generate = (service: Service, body: JsonObject, lease: Lease, call: Call) => Promise<Response>;

/** What a server shares with its app. */
/** `admin_open`: whoever asks may change the pod's shape, also where no key is asked for (default). */
export type AppParts = { readonly admin_open?: boolean; readonly admission?: Admission; readonly exporter?: SpanExporter | null };

/** `parts` are passed by a server that wants to drain and to send spans. */
export function createApp(
  pod: Pod,
  { onError, clock = systemClock, ...rest }: AppOptions = {},
  { admission, exporter = null, admin_open = true }: AppParts = {},
): Hono<Env> {
  const options = parseOptions(appOptionsSchema, rest, 'API options');
  if (options.enable_auto_tool_choice !== (options.tool_call_parser !== undefined)) {
    const param = options.enable_auto_tool_choice ? 'tool_call_parser' : 'enable_auto_tool_choice';
    throw new MinipodError('invalid_request', `${param}: is missing: enable_auto_tool_choice and tool_call_parser go together`, { param });
  }
  const report = onError ?? reportOnConsole;
  const service: Service = {
    pod,
    clock,
    metrics: createMetrics(pod.model.name, pod.model.context_length),
    traces: exporter === null ? null : new Traces(exporter, clock, pod.model.name),
    admission: admission ?? new Admission(options.concurrency),
    hidden: new HiddenTokens(pod),
    body_limit_bytes: options.body_limit_bytes,
    admin_open: admin_open || options.api_key !== undefined,
    reasoning_parser: options.reasoning_parser ?? null,
    tool_call_parser: options.tool_call_parser ?? null,
    // Wrong requests are the caller's, and who went away asked for the end.
    onError: (error, request_id) => void (isServersFault(error) && report(error, request_id)),
  };

  const app = new Hono<Env>();
  app.use(async (c, next) => {
    c.set('request_id', requestId(c.req.header('x-request-id'), clock));
    await next();
    c.res.headers.set('x-request-id', c.get('request_id'));
    // Whoever keeps connections in a pool goes elsewhere with its next request.
    if (service.admission.stopped) c.res.headers.set('connection', 'close');
  });
  if (options.api_key !== undefined) app.use(bearerAuth(options.api_key));

  const json = async (c: Context<Env>): Promise<JsonObject> => readJson(c.req.raw, options.body_limit_bytes);
  const jsonIfAny = async (c: Context<Env>): Promise<JsonObject> => readJsonIfAny(c.req.raw, options.body_limit_bytes);
  route(app, '/health', { GET: () => health(service) });
  route(app, '/version', { GET: () => Response.json({ version: VERSION }) });
  const lookAtExperts = expertsLookedAt(pod, options.expert_metrics, report);
  route(app, '/metrics', {
    GET: async () => {
      const [stats, experts] = await Promise.all([pod.stats(), lookAtExperts()]);
      return new Response(await service.metrics.render(stats, experts), { headers: { 'content-type': service.metrics.content_type } });
    },
  });
  route(app, '/v1/models', { GET: () => listModels(service) });
  route(app, '/v1/models/:model{.+}', { GET: (c) => retrieveModel(service, c.req.param('model') ?? '') });
  route(app, '/tokenize', { POST: async (c) => tokenize(service, await json(c)) });
  route(app, '/detokenize', { POST: async (c) => detokenize(service, await json(c)) });
  // As vLLM: no body either way.
  route(app, '/reset_prefix_cache', {
    POST: async () => {
      await pod.resetPrefixCache();
      return new Response(null, { status: 200 });
    },
  });
  route(app, '/admin/rebalance', {
    POST: async (c) => {
      checkAdmin(service);
      const { force = false } = parseOptions(rebalanceSchema, await jsonIfAny(c), 'rebalance');
      return Response.json({ outcomes: await pod.rebalance({ force }) });
    },
  });
  route(app, '/admin/scale', { POST: async (c) => scale(service, await jsonIfAny(c)) });
  route(app, '/scale_elastic_ep', { POST: async (c) => scaleElastic(service, await json(c)) });
  route(app, '/is_scaling_elastic_ep', { POST: () => isScaling(service) });
  route(app, '/experts', { GET: (c) => experts(service, c.req.query('measure')) });
  route(app, '/kv_events', { GET: (c) => kvEvents(service, c.req.query(), c.req.header('last-event-id'), c.req.raw.signal) });
  route(app, '/v1/completions', { POST: generateRoute(service, completions) });
  route(app, '/v1/chat/completions', { POST: generateRoute(service, chatCompletions) });
  route(app, '/v1/contexts', { GET: (c) => listContexts(service, c.req.query('cache_salt')), POST: generateRoute(service, createContext) });
  route(app, '/v1/contexts/:id', {
    GET: (c) => retrieveContext(service, c.req.param('id') ?? '', c.req.query('cache_salt')),
    DELETE: (c) => deleteContext(service, c.req.param('id') ?? '', c.req.query('cache_salt')),
  });

  app.notFound((c) => errorResponse(new ApiError(404, `There is no ${c.req.path} here.`, { code: 'unknown_url' })));
  app.onError((error, c) => {
    service.onError(error, c.get('request_id'));
    return errorResponse(toApiError(error));
  });
  return app;
}

/** A known path asked with another method is 405, not 404. */
function route(app: Hono<Env>, path: string, handlers: Partial<Record<'GET' | 'POST' | 'DELETE', Handler<Env>>>): void {
  for (const [method, handler] of Object.entries(handlers)) app.on(method, path, handler);
  const methods = Object.keys(handlers);
  app.all(path, (c) => {
    throw new ApiError(405, `${c.req.method} is not possible on ${c.req.path}; use ${methods.join(' or ')}.`, {
      code: 'method_not_allowed',
      headers: { allow: methods.join(', ') },
    });
  });
}

/** The lease ends with the answer; a stream takes it along and ends it itself. */
function generateRoute(service: Service, generate: Generate): Handler<Env> {
  return async (c) => {
    service.admission.check();
    // Who has not said all yet takes nobody's place, and no server that drains waits for him.
    const body = await readJson(c.req.raw, service.body_limit_bytes);
    const lease = service.admission.enter(c.req.raw.signal);
    let response: Response | undefined;
    try {
      response = await generate(service, body, lease, callOf(c));
      return response;
    } finally {
      if (response === undefined || !isEventStream(response)) lease.release();
    }
  };
}

const callOf = (c: Context<Env>): Call => ({
  request_id: c.get('request_id'),
  parent: parseTraceParent(c.req.header('traceparent')),
  data_parallel_rank: rankOf(c.req.header('x-data-parallel-rank')),
});

function rankOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (!/^\d{1,9}$/.test(header)) throw invalid('x-data-parallel-rank', 'must be the number of a DP group');
  return Number(header);
}

/** For each scrape; what is too much is reported once. */
function expertsLookedAt(
  pod: Pod,
  detail: ExpertMetrics | undefined,
  report: (error: unknown, request_id: null) => void,
): () => Promise<LookedAtExperts | null> {
  let isReported = false;
  const onTooMany = (series: number): void => {
    if (!isReported)
      report(new Error(`/metrics tells of experts by layer only: by expert they would be ${series} series, at most ${EXPERT_SERIES_MAX} are given`), null);
    isReported = true;
  };
  return async () => (detail === undefined ? null : { experts: await pod.experts({ measure: false }), detail, onTooMany });
}

function isServersFault(error: unknown): boolean {
  return toApiError(error).status === 500;
}

/** The caller's own, where it is fit to be a header and part of an id. */
const requestId = (given: string | undefined, clock: Clock): string => (given !== undefined && /^[\x21-\x7e]{1,128}$/.test(given) ? given : clock.newId());
