/** A thread that never serves an event loop pulls by two cards, each a thread of its own, on memories that share nothing. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { QueuePair } from '../../../src/flowserve/distflow/network/queue-pair.ts';
import { SocketBackend } from '../../../src/flowserve/distflow/network/socket-backend.ts';
import type { Offer } from '../../../src/flowserve/distflow/offers.ts';
import { CARD_THREAD, type CardData, PULLING_THREAD } from './card-thread.ts';
import { allocate, Rig, shuffled } from './rig.ts';

const SIZES = { npus: 2, segments: 1, layers: 4, layer_bytes: 65_536, blocks: 24 };

async function startCard(data: CardData): Promise<{ readonly worker: Worker; readonly port: number }> {
  const worker = new Worker(new URL('card-thread.ts', import.meta.url), { workerData: data });
  const [port] = (await once(worker, 'message')) as [number];
  return { worker, port };
}

describe('two network cards as threads', () => {
  it('carry blocks from layer to layer for a thread that only polls and sleeps, and stop when they are told to', async () => {
    const source = new Rig(SIZES);
    const served = await startCard({ sharing: source.sharing, line: null });
    const queue = new QueuePair();
    const sharing = allocate(SIZES);
    const pulling = await startCard({ sharing, line: { queue: queue.buffer, port: served.port } });
    const network = (): SocketBackend =>
      new SocketBackend({
        queue,
        owner: 1,
        ring: () => void target.memory.space.control.ring(CARD_THREAD),
        now_ms: () => performance.now(),
        deadline_ms: 5_000,
      });
    const target: Rig = new Rig(SIZES, { network }, ['a', 'b'], sharing);
    const { control } = target.memory.space;

    const from = shuffled(SIZES.blocks, 1).slice(0, 16);
    const to = shuffled(SIZES.blocks, 2).slice(0, 16);
    source.write(0, from);
    const offer = source.of(0).open('o', from, 1e9, 1) as Offer<string>;
    const pull = target.cluster.between(0, 1).pull('p', target.owner(1), offer.registration, source.place(0), target.addresses(1, to));
    // From here on this thread's event loop stands still.
    for (let turn = 0; target.cluster.pending > 0 || source.of(0).open_count > 0; turn++) {
      expect(turn).toBeLessThan(1_000_000);
      source.of(0).poll(0);
      target.cluster.poll();
      if (pull.copied_bytes === 16 * offer.layers_there * SIZES.layer_bytes && offer.layers_there < SIZES.layers)
        source.of(0).reach(offer, offer.layers_there + 1);
      control.sleep(PULLING_THREAD, 1, () => false);
    }
    const wanted = source.words(0, from);
    expect(target.cluster.drain().map(({ end }) => end)).toEqual([{ state: 'done' }]);
    expect(
      source
        .of(0)
        .drain()
        .map(({ end }) => end),
    ).toEqual(['pulled']);
    // Millions of words: a comparison that shows them would take seconds.
    expect(
      target.words(1, to).every((words, block) => Buffer.compare(Buffer.from(words.buffer), Buffer.from((wanted[block] as Int32Array).buffer)) === 0),
    ).toBe(true);

    for (const [{ worker }, space] of [
      [pulling, target.memory.space],
      [served, source.memory.space],
    ] as const) {
      const exit = once(worker, 'exit');
      space.control.stop(CARD_THREAD);
      await exit;
      expect(space.control.hasAcknowledged(CARD_THREAD)).toBe(true);
    }
    target.cluster.poll();
    expect(target.cluster.report()[0]?.broken).toBe('the connection ended');
  });
});
