/**
 * The API on a port.
 * @module
 * @example
 * await using pod = await createPod();
 * const server = await serve({ pod, port: 0 });
 * console.log(server.url); // http://127.0.0.1:40123
 * await server.close({ drain_ms: 5_000 });
 */
import * as z from 'zod';
import { parseOptions } from '../options/options.ts';
import type { Pod } from '../pod.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Listener } from './adapter/listener.ts';
import { listenOnNodeHttp } from './adapter/node-http.ts';
import { Admission } from './admission.ts';
import { type AppOptions, appOptionsSchema, createApp, reportOnConsole } from './app.ts';
import { type Clock, systemClock } from './clock.ts';
import { SpanExporter } from './otlp.ts';

export const serveOptionsSchema = appOptionsSchema.extend({
  /** Address to bind. Loopback unless said otherwise: who opens it to a network decides so, and should set `api_key`. */
  host: z.string().min(1).default('127.0.0.1'),
  /** 0: any free one. */
  port: z.int().min(0).max(65_535).default(8000),
  /** Spans of each request go there: OTLP over HTTP in JSON, such as http://localhost:4318/v1/traces. Default: none are made. */
  otlp_traces_endpoint: z.url({ protocol: /^https?$/, error: 'must be an http or https URL, such as http://localhost:4318/v1/traces' }).optional(),
});

export type ServeOptions = z.input<typeof serveOptionsSchema> & Pick<AppOptions, 'onError' | 'clock'> & { readonly pod: Pod };

export type ApiServer = {
  readonly url: string;
  readonly port: number;
  /** Completions and chats under way. */
  readonly active: number;
  /**
   * Drains the server and ends it. At once /health says 503 and new requests are refused with 503; those under way have `drain_ms` (default 0) to finish,
   * while health and metrics are still answered; then the rest is ended, a stream with an error event, others with 503. Tells how many those were.
   * The pod stays open. Safe to call twice.
   */
  close(options?: { drain_ms?: number }): Promise<{ readonly cut: number }>;
};

/** For clients that do not read on to get the last event before their connection is cut. */
const FAREWELL_MS = 500;

export const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || host.startsWith('127.');

export async function serve({ pod, onError, clock = systemClock, ...rest }: ServeOptions): Promise<ApiServer> {
  const { host, port, otlp_traces_endpoint, ...options } = parseOptions(serveOptionsSchema, rest, 'serve options');
  const admission = new Admission(options.concurrency);
  const exporter = otlp_traces_endpoint === undefined ? null : new SpanExporter(otlp_traces_endpoint, clock, onError ?? reportOnConsole);
  const app = createApp(pod, { ...options, onError, clock }, { admission, exporter, admin_open: isLoopback(host) });
  let listener: Listener;
  try {
    listener = await listenOnNodeHttp({ host, port, fetch: (request) => app.fetch(request) });
  } catch (error) {
    throw listenError(error, host, port);
  }
  let closing: Promise<{ readonly cut: number }> | undefined;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${listener.port}`,
    port: listener.port,
    get active() {
      return admission.active;
    },
    close({ drain_ms = 0 } = {}) {
      closing ??= close(listener, admission, exporter, clock, drain_ms);
      return closing;
    },
  };
}

async function close(
  listener: Listener,
  admission: Admission,
  exporter: SpanExporter | null,
  clock: Clock,
  drain_ms: number,
): Promise<{ readonly cut: number }> {
  const idle = admission.stop();
  // It listens on meanwhile: a load balancer that is refused a connection cannot tell a server that drains from one that has died.
  await atMost(drain_ms, idle, clock);
  const cut = admission.active;
  const closed = listener.close();
  admission.end();
  await atMost(FAREWELL_MS, idle, clock);
  // What was last written may still be on its way: idle connections go at once, the others when they have had the time to become idle.
  let isClosed = false;
  closed.then(() => {
    isClosed = true;
  });
  for (let waited_ms = 0; waited_ms < FAREWELL_MS && !isClosed; waited_ms += 10) {
    listener.closeIdle();
    await atMost(10, closed, clock);
  }
  if (!isClosed) listener.destroy();
  await closed;
  await exporter?.close();
  return { cut };
}

async function atMost(ms: number, done: Promise<void>, clock: Clock): Promise<void> {
  const timer = new AbortController();
  await Promise.race([done, clock.sleep(ms, timer.signal)]);
  timer.abort();
}

function listenError(error: unknown, host: string, port: number): MinipodError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const name = error instanceof Error ? error.name : '';
  if (code === 'EADDRINUSE' || name === 'AddrInUse')
    return new MinipodError('invalid_request', `port ${port} of ${host} is in use; choose another port, or 0 for any free one`, {
      param: 'port',
      cause: error,
    });
  if (code === 'EACCES' || name === 'PermissionDenied' || name === 'NotCapable')
    return new MinipodError('invalid_request', `this process may not listen on port ${port} of ${host}; choose a port above 1023`, {
      param: 'port',
      cause: error,
    });
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND' || name === 'AddrNotAvailable')
    return new MinipodError('invalid_request', `${host} is not an address of this machine`, { param: 'host', cause: error });
  return new MinipodError('internal', `cannot listen on port ${port} of ${host}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
}
