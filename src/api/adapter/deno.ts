/**
 * Deno: Deno.serve, which pulls a response as its client reads it and fires the request's signal when its client goes away. By default it fires it after a
 * success as well, when nobody here listens any more, and says so once on standard error; `--unstable-no-legacy-abort` ends both. There is no other way to
 * hear of a client that leaves before its answer: `info.completed` resolves only when the answer is written (tried on Deno 2.9.6).
 * @module
 */
import type { FetchHandler, Listen } from './listener.ts';

type DenoServer = { readonly addr: { readonly port: number }; shutdown(): Promise<void>; readonly finished: Promise<void> };
type DenoServe = (options: { hostname: string; port: number; signal: AbortSignal; onListen: () => void }, handler: FetchHandler) => DenoServer;

/** The part of Deno used here, so that Node's types suffice. */
const { Deno } = globalThis as { Deno?: { readonly serve: DenoServe } };

export const isDeno: boolean = Deno !== undefined;

export const listenOnDeno: Listen = async ({ host, port, fetch }) => {
  if (Deno === undefined) throw new Error('this is not Deno');
  const abort = new AbortController();
  const server = Deno.serve({ hostname: host, port, signal: abort.signal, onListen: () => {} }, (request) => fetch(request));
  return {
    port: server.addr.port,
    close: () => server.shutdown(),
    // shutdown() has ended them.
    closeIdle: () => {},
    destroy: () => abort.abort(),
  };
};
