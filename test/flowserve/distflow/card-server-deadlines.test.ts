/** A card waits for nobody for ever, and not for many at once: not for one that does not say who it is, nor for one that was refused and does not hang up. */
import { expect, it } from 'vitest';
import { CardServer, PEER_DEADLINE_MS, STRANGERS_MAX } from '../../../src/flowserve/distflow/network/card-server.ts';
import { bytesOf, HELLO_WORDS, numericsBytes } from '../../../src/flowserve/distflow/network/frames.ts';
import type { Stream } from '../../../src/flowserve/distflow/network/stream.ts';
import { KEY } from './network-rig.ts';
import { Rig } from './rig.ts';

/** That lead to the card. */
const LINES = 3;

class FakeStream implements Stream {
  isDestroyed = false;
  receive: (bytes: Uint8Array) => void = () => {};
  #close = (): void => {};
  write = (): boolean => true;
  onData(receive: (bytes: Uint8Array) => void): void {
    this.receive = receive;
  }
  onDrain(): void {}
  onClose(act: () => void): void {
    this.#close = act;
  }
  pause(): void {}
  resume(): void {}
  destroy(): void {
    this.isDestroyed = true;
    this.#close();
  }
}

async function served() {
  const due = new Map<() => void, number>();
  const timers = {
    after: (delay_ms: number, act: () => void) => {
      due.set(act, delay_ms);
      return () => void due.delete(act);
    },
  };
  const server = new CardServer(new Rig().memory.space, '', KEY, LINES, timers);
  let accept = (_: Stream): void => {};
  await server.listen({
    listen: async (port, accepted) => {
      accept = accepted;
      return { port, close: async () => {} };
    },
    connect: () => Promise.reject(new Error('nobody listens')),
  });
  const connect = (): FakeStream => {
    const stream = new FakeStream();
    accept(stream);
    return stream;
  };
  const stream = connect();
  const pass = (): void => {
    for (const act of [...due.keys()]) act();
  };
  return { server, stream, due, pass, connect };
}

const hello = (numerics: string, key = KEY): Uint8Array => {
  const named = numericsBytes(numerics);
  const frame = new Uint8Array(HELLO_WORDS * 4 + named.length);
  frame.set(bytesOf(Int32Array.of(...key, 0, 1, 1, named.length)));
  frame.set(named, HELLO_WORDS * 4);
  return frame;
};

it('who does not say who it is, is hung up on', async () => {
  const { stream, due, pass } = await served();
  stream.receive(hello('').subarray(0, 8));
  expect([...due.values()]).toEqual([PEER_DEADLINE_MS]);
  pass();
  expect([stream.isDestroyed, due.size]).toEqual([true, 0]);
});

it('who does not know its key, is hung up on before anything else', async () => {
  for (const wrong of [0, 1, 2, 3]) {
    const { stream, due } = await served();
    stream.receive(hello('', KEY.with(wrong, 0x6d70_6466)).subarray(0, 16));
    expect([stream.isDestroyed, due.size]).toEqual([true, 0]);
  }
});

it('who was refused and stays, is hung up on', async () => {
  const { stream, due, pass } = await served();
  stream.receive(hello('kv_cache_dtype int8'));
  expect([stream.isDestroyed, due.size]).toEqual([false, 1]);
  pass();
  expect([stream.isDestroyed, due.size]).toEqual([true, 0]);
});

it('who is let in has no deadline of that kind', async () => {
  const { stream, due } = await served();
  stream.receive(hello(''));
  expect([stream.isDestroyed, due.size]).toEqual([false, 0]);
});

it('of those who do not say who they are it holds so many, and the next is hung up on at once', async () => {
  const { server, stream: first, due, connect } = await served();
  const others = Array.from({ length: LINES + STRANGERS_MAX - 1 }, connect);
  const refused = connect();
  expect([refused.isDestroyed, server.counters.refused, server.links().length, due.size]).toEqual([true, 1, LINES + STRANGERS_MAX, LINES + STRANGERS_MAX]);
  expect([first, ...others].some(({ isDestroyed }) => isDestroyed)).toBe(false);

  // Who says it, and who goes, makes room for one each.
  first.receive(hello(''));
  others[0]?.destroy();
  expect([connect(), connect(), connect()].map(({ isDestroyed }) => isDestroyed)).toEqual([false, false, true]);
  expect(first.isDestroyed).toBe(false);
});
