/** Two machines in one process: memories that share nothing, and a connection between their cards. Machine 0 offers, machine 1 pulls. */

import { nodeNet } from '../../../src/flowserve/distflow/network/adapter/node-net.ts';
import { CardClient } from '../../../src/flowserve/distflow/network/card-client.ts';
import { CardServer } from '../../../src/flowserve/distflow/network/card-server.ts';
import { QueuePair } from '../../../src/flowserve/distflow/network/queue-pair.ts';
import { SocketBackend } from '../../../src/flowserve/distflow/network/socket-backend.ts';
import { breathe } from '../../../src/runtime/event-loop.ts';
import { Rig, type Sizes, SMALL } from './rig.ts';

/** Of the cards of all tests. */
export const KEY = Int32Array.of(1, -2, 3, -4);

export class TwoMachines {
  readonly source: Rig;
  readonly target: Rig;
  readonly server: CardServer;
  readonly client: CardClient;
  readonly queues: QueuePair[] = [];
  #now_ms = 0;
  /** By which cards are asked again and given up. It goes on with every turn, as leases' does not. */
  card_ms = 0;

  constructor(port: number, server: CardServer, source: Rig, sizes: Sizes) {
    this.source = source;
    this.server = server;
    const network = (): SocketBackend => {
      const queue = new QueuePair();
      this.queues.push(queue);
      this.client.attach({ queue, thread: 1, source: 0, target: 1, numerics: '', port, key: KEY, wake: () => {} });
      return new SocketBackend({ queue, owner: 1, ring: () => {}, now_ms: () => this.card_ms, deadline_ms: 5_000 });
    };
    this.target = new Rig(sizes, { network }, ['a', 'b']);
    this.client = new CardClient(this.target.memory.space, nodeNet);
  }

  static async open(sizes = SMALL, port?: number): Promise<TwoMachines> {
    const source = new Rig(sizes);
    const server = new CardServer(source.memory.space, '', KEY, 1);
    const listening = await server.listen(nodeNet);
    return new TwoMachines(port ?? listening, server, source, sizes);
  }

  pass(duration_ms: number): void {
    this.#now_ms += duration_ms;
    this.card_ms += duration_ms;
  }

  /** By the holder, who knows from then on that nobody reads there. */
  cut(): void {
    this.server.cut(0, 1);
    this.source.cut.add(1);
  }

  turn(): void {
    this.source.of(0).poll(this.#now_ms);
    this.client.pump();
    this.target.cluster.poll();
  }

  /** `turn_ms`: how long each takes by the cards' clock. */
  async turnUntil(isTrue: () => boolean, turn_ms = 0.1): Promise<void> {
    for (let turn = 0; turn < 20_000; turn++) {
      this.card_ms += turn_ms;
      this.turn();
      if (isTrue()) return;
      await breathe();
    }
    throw new Error('it never comes');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    await this.server.close();
  }
}
