/** A network card's thread of bench/distflow.ts. @module */
import { parentPort, workerData } from 'node:worker_threads';
import { AddressSpace } from '../src/fabric/address-space.ts';
import { nodeNet } from '../src/flowserve/distflow/network/adapter/node-net.ts';
import { CardClient } from '../src/flowserve/distflow/network/card-client.ts';
import { CardServer } from '../src/flowserve/distflow/network/card-server.ts';
import { NetworkCard } from '../src/flowserve/distflow/network/network-card.ts';
import { QueuePair } from '../src/flowserve/distflow/network/queue-pair.ts';
import type { Start } from './distflow-sides.ts';

export const CARD_THREAD = 1;
export const PULLING_THREAD = 0;
/** Of both sides' cards, which are threads of their own. */
const KEY = Int32Array.of(1, 2, 3, 4);
export type CardData = { readonly start: Start; readonly line: { readonly queue: SharedArrayBuffer; readonly port: number } | null };

if (parentPort !== null) {
  const { start, line } = workerData as CardData;
  const space = new AddressSpace(start.memories, start.plan.regions);
  const server = new CardServer(space, '', KEY, 1);
  const client = new CardClient(space, nodeNet);
  const wake = (): void => void space.control.ring(PULLING_THREAD);
  if (line !== null)
    client.attach({ queue: new QueuePair(line.queue), thread: PULLING_THREAD, source: 0, target: 1, numerics: '', port: line.port, key: KEY, wake });
  parentPort.postMessage(await server.listen(nodeNet));
  await new NetworkCard(space.control, CARD_THREAD, client, server).run();
  process.exit();
}
