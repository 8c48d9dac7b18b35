/** A network card as a thread: serves the memory that it was given to others, and works off the queue pair of the thread that started it. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeNet } from '../../../src/flowserve/distflow/network/adapter/node-net.ts';
import { CardClient } from '../../../src/flowserve/distflow/network/card-client.ts';
import { CardServer } from '../../../src/flowserve/distflow/network/card-server.ts';
import { NetworkCard } from '../../../src/flowserve/distflow/network/network-card.ts';
import { QueuePair } from '../../../src/flowserve/distflow/network/queue-pair.ts';
import { KEY } from './network-rig.ts';
import { openMemory, type Sharing } from './rig.ts';

export const CARD_THREAD = 1;
export const PULLING_THREAD = 0;
/** `served`: the memory that this card serves, if any. `queue` and `port`: what it works off, from whom. */
export type CardData = { readonly sharing: Sharing; readonly line: { readonly queue: SharedArrayBuffer; readonly port: number } | null };

if (parentPort !== null) {
  const { sharing, line } = workerData as CardData;
  const { space } = openMemory(sharing);
  const server = new CardServer(space, '', KEY, 1);
  const client = new CardClient(space, nodeNet);
  const wake = (): void => void space.control.ring(PULLING_THREAD);
  if (line !== null)
    client.attach({ queue: new QueuePair(line.queue), thread: PULLING_THREAD, source: 0, target: 1, numerics: '', port: line.port, key: KEY, wake });
  parentPort.postMessage(await server.listen(nodeNet));
  await new NetworkCard(space.control, CARD_THREAD, client, server).run();
  process.exit();
}
