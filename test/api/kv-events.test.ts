import { afterEach, describe, expect, it } from 'vitest';
import { type ApiServer, serve } from '../../src/api/index.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import type { KvEvent } from '../../src/protocol/kv-events.ts';
import { FakePod } from './fake-pod.ts';

const stored = (name: number): KvEvent => ({
  ...{ type: 'BlockStored', block_hashes: [name], parent_block_hash: null, token_ids: [1, 2], block_size: 2, lora_id: null, medium: 'GPU' },
});

/** Reads server-sent events as they come. */
class Reader {
  readonly #abort = new AbortController();
  readonly ended: Promise<void>;
  text = '';

  constructor(url: string, headers: Record<string, string> = {}) {
    this.ended = fetch(url, { headers, signal: this.#abort.signal }).then(async (response) => {
      const decoder = new TextDecoder();
      for await (const part of response.body ?? []) this.text += decoder.decode(part, { stream: true });
    });
    this.ended.catch(() => {});
  }

  /** Each as [id, names of blocks stored, or the type]. */
  get events(): unknown[] {
    return this.text
      .split('\n\n')
      .filter((frame) => frame.includes('data: '))
      .map((frame) => {
        const { events, data_parallel_rank, ts } = JSON.parse(frame.slice(frame.indexOf('data: ') + 6)) as {
          events: KvEvent[];
          data_parallel_rank: number;
          ts: number;
        };
        expect([data_parallel_rank, Math.abs(ts - Date.now() / 1_000) < 60]).toEqual([0, true]);
        const what = events.map((event) => (event.type === 'BlockStored' ? event.block_hashes[0] : event.type));
        return [/^id: (\S+)\n/.exec(frame)?.[1] ?? null, ...what];
      });
  }

  leave(): void {
    this.#abort.abort();
  }
}

describe('GET /kv_events', () => {
  const pod = new FakePod();
  const readers: Reader[] = [];
  let server: ApiServer | null = null;
  afterEach(async () => {
    for (const reader of readers.splice(0)) reader.leave();
    await server?.close();
    server = null;
  });

  const read = async (query = '', headers: Record<string, string> = {}): Promise<Reader> => {
    server ??= await serve({ pod, port: 0, onError: () => {} });
    const reader = new Reader(`${server.url}/kv_events${query}`, headers);
    readers.push(reader);
    return reader;
  };

  it('should replay from a number on, and go on with what happens', async () => {
    pod.kv_events = { first: 3, batches: [[stored(30)], [stored(40), stored(41)], [stored(50)], [stored(60)]] };
    const [all, some, back] = [await read('?from=0'), await read('?from=5'), await read('', { 'last-event-id': '1-4' })];
    await expect.poll(() => [all.events.length, some.events.length, back.events.length]).toEqual([4, 2, 2]);
    pod.kv_events.batches.push([{ type: 'AllBlocksCleared' }]);
    await expect.poll(() => [some.events.length, back.events.length]).toEqual([3, 3]);
    expect(all.events.slice(0, 4)).toEqual([
      ['1-3', 30],
      ['1-4', 40, 41],
      ['1-5', 50],
      ['1-6', 60],
    ]);
    expect(some.events).toEqual([
      ['1-5', 50],
      ['1-6', 60],
      ['1-7', 'AllBlocksCleared'],
    ]);
    expect(back.events).toEqual(some.events);
  });

  it('should begin with what happens from now on where nothing is to be replayed, and say when all is forgotten', async () => {
    pod.kv_events = { first: 0, batches: [[stored(1)], [stored(2)]] };
    const reader = await read();
    await new Promise((resolve) => setTimeout(resolve, 150));
    pod.kv_events.batches.push([stored(3)]);
    await expect.poll(() => reader.events).toEqual([['1-2', 3]]);
    // A successor of its worker counts from 0.
    pod.kv_events = { first: 0, batches: [[stored(9)]] };
    await expect
      .poll(() => reader.events)
      .toEqual([
        ['1-2', 3],
        [null, 'AllBlocksCleared'],
        ['1-0', 9],
      ]);
  });

  it('should begin anew with another life of the group, however far that has come, for whoever listens and whoever comes back', async () => {
    pod.kv_events = { first: 0, batches: [[stored(1)], [stored(2)]] };
    const reader = await read('?from=0');
    await expect.poll(() => reader.events.length).toBe(2);
    pod.kv_events = { first: 0, batches: [[stored(7)], [stored(8)], [stored(9)]], life: 2 };
    const anew = [
      [null, 'AllBlocksCleared'],
      ['2-0', 7],
      ['2-1', 8],
      ['2-2', 9],
    ];
    await expect.poll(() => reader.events.slice(2)).toEqual(anew);
    const [back, knows] = [await read('', { 'last-event-id': '1-0' }), await read('', { 'last-event-id': '2-1' })];
    await expect.poll(() => [back.events, knows.events]).toEqual([anew, anew.slice(3)]);
  });

  it('should end where the group is gone for good, and say that all is forgotten', async () => {
    pod.kv_events = { first: 0, batches: [[stored(1)]] };
    const reader = await read('?from=0');
    await expect.poll(() => reader.events).toEqual([['1-0', 1]]);
    const { kvEvents } = pod;
    pod.kvEvents = () => Promise.reject(new MinipodError('groups_lost', 'DP group 0 is gone', { param: 'dp_group' }));
    await reader.ended;
    expect(reader.events).toEqual([
      ['1-0', 1],
      [null, 'AllBlocksCleared'],
    ]);
    const response = await fetch(`${server?.url}/kv_events`);
    expect([response.status, ((await response.json()) as { error: { message: string } }).error.message]).toEqual([410, 'DP group 0 is gone']);
    pod.kvEvents = kvEvents;
  });

  it('should end as the server drains', async () => {
    const reader = await read('?from=0');
    await expect.poll(() => reader.events.length).toBeGreaterThan(0);
    await server?.close({ drain_ms: 5_000 });
    await reader.ended;
  });

  it('should say what is wrong', async () => {
    await read();
    for (const [query, param] of [
      ['?engine=1', 'engine'],
      ['?engine=x', 'engine'],
      ['?from=-1', 'from'],
    ]) {
      const response = await fetch(`${server?.url}/kv_events${query}`);
      expect([response.status, ((await response.json()) as { error: { param: string } }).error.param]).toEqual([400, param]);
    }
  });
});
