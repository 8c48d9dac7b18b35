/** A queue pair that is used again and again: by the next link, by the next life of its thread, past a card that is silent. */
import { describe, expect, it } from 'vitest';
import { WorkRequest } from '../../../src/flowserve/distflow/backend.ts';
import { LeaseReturn } from '../../../src/flowserve/distflow/lease-return.ts';
import { nodeNet } from '../../../src/flowserve/distflow/network/adapter/node-net.ts';
import { CardClient } from '../../../src/flowserve/distflow/network/card-client.ts';
import { CardServer } from '../../../src/flowserve/distflow/network/card-server.ts';
import { bytesOf } from '../../../src/flowserve/distflow/network/frames.ts';
import { QueuePair } from '../../../src/flowserve/distflow/network/queue-pair.ts';
import { SocketBackend } from '../../../src/flowserve/distflow/network/socket-backend.ts';
import { MinipodError } from '../../../src/protocol/errors.ts';
import { breathe } from '../../../src/runtime/event-loop.ts';
import { KEY } from './network-rig.ts';
import { Rig } from './rig.ts';

const PULLING_THREAD = 1;

/** A card whose client and server are one, as in a pod, and a word of NPU 0 that is swapped by it. */
class Line {
  readonly rig = new Rig();
  readonly server = new CardServer(this.rig.memory.space, '', KEY, 1);
  readonly client = new CardClient(this.rig.memory.space, nodeNet);
  readonly queue = new QueuePair();
  readonly address = this.rig.place(0).kv.address;
  port = 0;
  numerics = '';
  now_ms = 0;

  async open(): Promise<this> {
    this.port = await this.server.listen(nodeNet);
    this.client.attach({ queue: this.queue, thread: PULLING_THREAD, source: 0, target: 1, numerics: this.numerics, port: this.port, key: KEY, wake: () => {} });
    return this;
  }

  link(before?: SocketBackend): SocketBackend {
    return new SocketBackend({ queue: this.queue, owner: 1, ring: () => {}, now_ms: () => this.now_ms, deadline_ms: 5_000, before });
  }

  get word(): number {
    return this.rig.memory.space.wordsOf(this.address)[(this.address % 2 ** 32) / 4] as number;
  }

  async until(backend: SocketBackend, isTrue: () => boolean): Promise<void> {
    for (let turn = 0; !isTrue(); turn++) {
      expect(turn).toBeLessThan(20_000);
      this.client.pump();
      await breathe();
      backend.poll();
    }
  }

  /** `posted` again as long as there is no room, as while the queue pair is another's. */
  async swap(backend: SocketBackend, expected: number, next: number): Promise<WorkRequest> {
    const work = new WorkRequest();
    await this.until(backend, () => {
      if (work.isIdle) backend.compareSwap(work, this.address, expected, next);
      return work.state === 'done' || work.state === 'failed';
    });
    return work;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    await this.server.close();
  }
}

describe('a queue pair', () => {
  it('is opened anew when the card has closed it, and whoever had it before gets nothing by it', async () => {
    await using line = await new Line().open();
    const [first, second] = [line.link(), line.link()];
    expect((await line.swap(first, 0, 7)).value).toBe(0);
    const after = line.link(first);
    first.close(new MinipodError('worker_failed', 'a test cut it'));
    expect((await line.swap(after, 7, 8)).value).toBe(7);
    expect([line.word, first.isClosed, after.isClosed, line.queue.openings]).toEqual([8, true, false, 2]);
    expect((await line.swap(first, 8, 9)).state).toBe('failed');
    // Nobody told it of the others: as long as the queue pair is open it waits.
    const work = new WorkRequest();
    second.compareSwap(work, line.address, 8, 9);
    expect([work.state, line.word]).toEqual(['idle', 8]);
  });

  it('serves nothing for a life that is over', async () => {
    await using line = await new Line().open();
    const backend = line.link();
    expect((await line.swap(backend, 0, 7)).state).toBe('done');
    line.rig.memory.space.control.raiseEpoch(PULLING_THREAD);
    expect((await line.swap(backend, 7, 8)).state).toBe('failed');
    expect([line.word, line.queue.isClosed, line.client.open_count]).toEqual([7, true, 0]);
    // Nor when it opens it again.
    expect((await line.swap(line.link(backend), 7, 8)).state).toBe('failed');
    expect(line.word).toBe(7);
  });

  it('is found open by a card that begins to look while it is opened', async () => {
    await using line = await new Line().open();
    const queue = new QueuePair();
    queue.close();
    let isOpened = false;
    const openedBetween = new Proxy(queue, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target);
        if ((name === 'isClosed' || name === 'openings') && !isOpened) {
          isOpened = true;
          queue.open(1);
        }
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    line.client.attach({ queue: openedBetween, thread: PULLING_THREAD, source: 0, target: 1, numerics: '', port: line.port, key: KEY, wake: () => {} });
    expect([isOpened, line.client.hasWork]).toEqual([true, true]);
    line.client.pump();
    expect(line.client.open_count).toBe(1);
  });

  it('breaks where the card answers nothing, and says what was awaited', async () => {
    await using line = await new Line().open();
    const backend = line.link();
    const work = new WorkRequest();
    backend.compareSwap(work, line.address, 0, 7);
    line.now_ms = 4_999;
    backend.poll();
    expect([backend.broken, backend.isWaiting]).toEqual([null, true]);
    line.now_ms = 5_001;
    backend.poll();
    expect(backend.broken?.message).toBe("the network card has answered nothing for 5 s; 'swap' is awaited");
    // What it may still write is known to be over only when it says so.
    expect([work.state, backend.isClosed]).toEqual(['posted', false]);
    await line.until(backend, () => backend.isClosed);
    expect(work.state).toBe('failed');
  });
});

describe('a puller of other numerics', () => {
  it('is refused, and told both; nothing of the source is touched', async () => {
    const line = new Line();
    line.numerics = 'kv_cache_dtype int8';
    await using _ = await line.open();
    const backend = line.link();
    const before = line.word;
    const work = await line.swap(backend, before, before + 1);
    expect([work.state, line.word]).toEqual(['failed', before]);
    expect(backend.broken).toMatchObject({
      code: 'invalid_request',
      message: "executor 0 has KV by the model's own numerics, executor 1 by kv_cache_dtype int8: the same at both would be right",
    });
    expect(line.server.counters).toMatchObject({ refused: 1, requests: 0 });
  });
});

describe('a newer link of a puller', () => {
  it('ends his older one at the source, and no one else’s', async () => {
    await using line = await new Line().open();
    const ended: string[] = [];
    const connect = async (name: string, puller: number): Promise<void> => {
      const stream = await nodeNet.connect(line.port);
      stream.onData(() => {});
      stream.onClose(() => void ended.push(name));
      stream.write(bytesOf(Int32Array.of(...KEY, 0, 1, puller, 0)));
      for (let turn = 0; turn < 200 && line.server.links().length < 2; turn++) await breathe();
    };
    await connect('older', 5);
    await connect('other', 6);
    await connect('newer', 5);
    await expect.poll(() => ended).toEqual(['older']);
  });

  it.each([
    ['held', 3],
    ['pulling', 3],
    ['fenced', 3],
    ['another’s', 9],
  ])('lets go of a lease that is %s', async (state, wanted) => {
    await using line = await new Line().open();
    const words = { held: 10, pulling: 11, fenced: 12, 'another’s': 9 };
    const backend = line.link();
    await line.swap(backend, 0, words[state as keyof typeof words]);
    const giving = new LeaseReturn(backend, { address: line.address, held: 10, pulling: 11, fenced: 12, stopped: 3 });
    await line.until(backend, () => giving.poll() === 'done');
    expect(line.word).toBe(wanted);
  });
});
