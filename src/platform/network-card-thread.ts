/** Entry of the pod's network card: the one thread that has sockets. @module */
import { workerData } from 'node:worker_threads';
import { AddressSpace } from '../fabric/address-space.ts';
import type { Region } from '../fabric/memory-plan.ts';
import { nodeNet } from '../flowserve/distflow/network/adapter/node-net.ts';
import { CardClient } from '../flowserve/distflow/network/card-client.ts';
import { CardServer } from '../flowserve/distflow/network/card-server.ts';
import { networkKey } from '../flowserve/distflow/network/frames.ts';
import { NetworkCard } from '../flowserve/distflow/network/network-card.ts';
import { QueuePair } from '../flowserve/distflow/network/queue-pair.ts';
import type { KvLine } from '../flowserve/kv/kv-network.ts';
import { systemRandom } from '../runtime/clock.ts';

export type NetworkCardData = {
  readonly memories: readonly WebAssembly.Memory[];
  readonly regions: readonly Region[];
  readonly thread: number;
  readonly lines: readonly KvLine[];
  /** Of all executors of the pod. */
  readonly numerics: string;
};

const { memories, regions, thread, lines, numerics } = workerData as NetworkCardData;
const space = new AddressSpace(memories, regions);
const key = networkKey(systemRandom);
const server = new CardServer(space, numerics, key, lines.length);
const client = new CardClient(space, nodeNet);
const port = await server.listen(nodeNet);
for (const { queue, ...line } of lines)
  client.attach({ ...line, queue: new QueuePair(queue), numerics, port, key, wake: () => void space.control.ring(line.thread) });
await new NetworkCard(space.control, thread, client, server).run();
