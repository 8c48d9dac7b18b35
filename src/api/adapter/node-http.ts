/**
 * node:http by way of @hono/node-server, on Node and on Deno: it stops reading a response while its socket is full and cancels it when its client goes away.
 * (Deno.serve 2.9.6 does not tell of a client that left once the request's body was longer than a few hundred bytes.)
 * @module
 */
import type { Server } from 'node:http';
import { createAdaptorServer } from '@hono/node-server';
import type { Listen } from './listener.ts';

export const listenOnNodeHttp: Listen = async ({ host, port, fetch }) => {
  // The globals of the program that embeds this server are not ours to replace.
  const server = createAdaptorServer({ fetch, hostname: host, overrideGlobalObjects: false }) as Server;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: () => new Promise((resolve) => server.close(() => resolve())),
    closeIdle: () => server.closeIdleConnections(),
    destroy: () => server.closeAllConnections(),
  };
};
