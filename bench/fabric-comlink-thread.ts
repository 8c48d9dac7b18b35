/** The other thread of a Comlink call. @module */
import { parentPort } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';

const remote = { echo: (message: object): object => message };
export type EchoRemote = typeof remote;

if (parentPort === null) throw new Error('bench/fabric-others.ts starts this');
Comlink.expose(remote, nodeEndpoint(parentPort));
