/** The same pulls and transfers between machines that share no memory, over a connection that may end at any moment. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nodeNet } from '../../../src/flowserve/distflow/network/adapter/node-net.ts';
import type { Offer } from '../../../src/flowserve/distflow/offers.ts';
import type { Poll } from '../../../src/flowserve/distflow/outcome.ts';
import type { Pull } from '../../../src/flowserve/distflow/pull.ts';
import { PLAIN } from '../../../src/flowserve/distflow/transfer.ts';
import { breathe } from '../../../src/runtime/event-loop.ts';
import { runs } from '../../property-runs.ts';
import { TwoMachines } from './network-rig.ts';
import { SMALL, shuffled } from './rig.ts';

const TTL_MS = 100;
const reasonOf = (end: Poll | undefined): string => (end?.state === 'failed' ? end.reason : (end?.state ?? 'nothing'));

type Pulling = { readonly offer: Offer<string>; readonly pull: Pull; readonly from: number[]; readonly to: number[] };
function startPull({ source, target }: TwoMachines, blocks: number, seed: number, layers_there = SMALL.layers): Pulling {
  const [from, to] = [shuffled(SMALL.blocks, seed).slice(0, blocks), shuffled(SMALL.blocks, seed + 1).slice(0, blocks)];
  source.write(0, from, seed);
  const offer = source.of(0).open('o', from, TTL_MS, layers_there) as Offer<string>;
  for (const block of from) source.pool(0).free(block);
  const pull = target.cluster.between(0, 1).pull('p', target.owner(1), offer.registration, source.place(0), target.addresses(1, to));
  return { offer, pull, from, to };
}

describe('pulls over a connection', () => {
  it('bring the very blocks, by request and by layer, and both sides know it', async () => {
    await using machines = await TwoMachines.open();
    const { source, target } = machines;
    const shape = fc.record({ blocks: fc.integer({ min: 0, max: 12 }), seed: fc.nat({ max: 999 }), layers_there: fc.integer({ min: 0, max: SMALL.layers }) });
    await fc.assert(
      fc.asyncProperty(shape, async ({ blocks, seed, layers_there }) => {
        const { offer, pull, from, to } = startPull(machines, blocks, seed, layers_there);
        for (let there = layers_there; there < SMALL.layers; ) {
          await machines.turnUntil(() => pull.copied_bytes === there * blocks * SMALL.layer_bytes);
          source.of(0).reach(offer, ++there);
        }
        await machines.turnUntil(() => target.cluster.pending === 0 && source.of(0).open_count === 0);
        expect(target.cluster.drain().map(({ end }) => reasonOf(end))).toEqual(['done']);
        expect(
          source
            .of(0)
            .drain()
            .map(({ end }) => end),
        ).toEqual(['pulled']);
        expect(target.words(1, to)).toEqual(source.words(0, from));
        expect(source.pool(0).used).toBe(0);
      }),
      { numRuns: runs(12) },
    );
    expect(machines.server.links()).toEqual([{ source: 0, target: 1 }]);
  });

  it('ask for the next layer, and for sums, once a millisecond and not at every turn; nothing is to be done meanwhile', async () => {
    await using machines = await TwoMachines.open();
    const { source, target, server } = machines;
    const { offer, pull } = startPull(machines, 4, 5, 1);
    const { counters } = server;
    const rests = async (): Promise<void> => {
      let turns = 0;
      await machines.turnUntil(() => target.cluster.isIdle && target.cluster.mustAskAgain && ++turns > 2, 0);
      const before = counters.requests;
      for (let passed_ms = 0; passed_ms < 20; passed_ms += 2) {
        await machines.turnUntil(() => counters.requests === before + passed_ms / 2, 0);
        turns = 0;
        await machines.turnUntil(() => ++turns > 100, 0);
        expect(counters.requests).toBe(before + passed_ms / 2);
        expect([target.cluster.isIdle, target.cluster.mustAskAgain]).toEqual([true, true]);
        machines.card_ms += 2;
      }
      // The last one.
      await machines.turnUntil(() => counters.requests === before + 10, 0);
    };
    await machines.turnUntil(() => pull.copied_bytes === 4 * SMALL.layer_bytes);
    await rests();
    for (let there = 2; there <= SMALL.layers; there++) source.of(0).reach(offer, there);
    await machines.turnUntil(() => target.cluster.pending === 0 && source.of(0).open_count === 0);
    expect(target.cluster.drain().map(({ end }) => reasonOf(end))).toEqual(['done']);
    expect(target.cluster.mustAskAgain).toBe(false);
  });

  type Mishap = readonly [what: string, reason: string, act: (machines: TwoMachines, pulling: Pulling) => void];
  const mishaps: readonly Mishap[] = [
    ['is cancelled', 'cancelled', (_, { pull }) => pull.cancel()],
    ['is withdrawn', 'expired', ({ source }, { offer }) => source.of(0).withdraw(offer)],
    ['expires', 'expired', (machines) => machines.pass(TTL_MS)],
    ['loses its link, cut by the holder', 'link_broken', (machines) => machines.cut()],
    ['loses its link, broken by the puller', 'link_broken', ({ target }) => target.cluster.between(0, 1).break('a test cut it')],
    ['loses its puller', 'given_up', ({ target, source }) => [target, source].forEach(({ memory }) => void memory.space.control.raiseEpochOfDie(1))],
  ];
  it.each(mishaps)('end on both sides, and leave nothing, whichever of its requests was served last when it %s', async (_, reason, act) => {
    const seen = new Set<string>();
    for (let requests = 0; requests < 24; requests += 2) {
      await using machines = await TwoMachines.open();
      const { source, target } = machines;
      const pulling = startPull(machines, 4, 3);
      await machines.turnUntil(() => machines.server.counters.requests >= requests || target.cluster.pending === 0);
      act(machines, pulling);
      await machines.turnUntil(() => target.cluster.pending === 0);
      const before = target.words(1, pulling.to);
      const pulled = reasonOf(target.cluster.drain()[0]?.end);
      seen.add(pulled);
      // Nobody had claimed it, or the holder is told by a new link that nobody reads here any more.
      machines.pass(TTL_MS);
      machines.turn();
      await machines.turnUntil(() => source.of(0).open_count === 0);
      const isPulled = source.of(0).drain()[0]?.end === 'pulled';
      // A release whose answer is lost with the link or the puller: nobody can know.
      if (isPulled !== (pulled === 'done')) expect([isPulled, ['link_broken', 'given_up'].includes(pulled)]).toEqual([true, true]);
      expect(source.pool(0).used).toBe(0);
      if (pulled === 'done') expect(before).toEqual(source.words(0, pulling.from));
      await breathe();
      expect(target.words(1, pulling.to)).toEqual(before);
    }
    // Some came too late to matter, and some did not.
    expect(seen).toContain('done');
    expect(seen).toContain(reason);
  });
});

describe('a connection', () => {
  it('fails what is under way where nobody listens, and a new instance is not hurt by it', async () => {
    await using machines = await TwoMachines.open(SMALL, 1);
    const { pull } = startPull(machines, 2, 1);
    await machines.turnUntil(() => machines.target.cluster.pending === 0);
    expect(reasonOf(pull.poll())).toBe('link_broken');
    machines.target.cluster.drain();
    // Whether it was claimed nobody knows: to tell the holder, another link is tried.
    expect(machines.target.cluster.report().map(({ broken, pending, counters }) => [broken, pending, counters.started])).toEqual([[null, 1, 0]]);
  });

  it('refuses memory that is not there or not held, and whoever does not speak as a card', async () => {
    await using machines = await TwoMachines.open();
    const { source, target, server } = machines;
    const { block_bytes: bytes } = source.place(0).kv;
    const ends = async (address: number): Promise<string> => {
      target.cluster.between(0, 1).transfer('t', target.owner(1), { addresses: [address], bytes }, { addresses: target.addresses(1, [0]), bytes }, PLAIN);
      await machines.turnUntil(() => target.cluster.pending === 0);
      return reasonOf(target.cluster.drain()[0]?.end);
    };
    const [address] = source.addresses(0, [3]) as [number];
    expect(await ends(address)).toBe('done');
    expect(await ends(4_096)).toBe('fault');
    expect(await ends(99 * 2 ** 32)).toBe('fault');
    source.memory.space.table.setState(source.regionOf(0), 'quarantined');
    expect(await ends(address)).toBe('fault');

    const other = await TwoMachines.open();
    const port = await other.server.listen(nodeNet);
    const stream = await nodeNet.connect(port);
    const closed = new Promise<void>((resolve) => stream.onClose(resolve));
    stream.onData(() => {});
    stream.write(new TextEncoder().encode('GET / HTTP/1.1\r\n\r\n'));
    await closed;
    expect(other.server.counters.refused).toBe(1);
    expect(server.counters.refused).toBe(0);
    await other[Symbol.asyncDispose]();
  });
});
