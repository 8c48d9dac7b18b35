/**
 * DistFlow: KV blocks from one NPU's HBM to another's, really copied, against `memory.copy` of the very same scattered blocks, by size; what generations, sums
 * and leases cost on top; and the network apart.
 *
 * @example
 * node bench/distflow.ts          # writes bench/results/distflow.json
 * @module
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Guard } from '../src/flowserve/distflow/copying.ts';
import { Instance } from '../src/flowserve/distflow/instance.ts';
import { MemoryBackend } from '../src/flowserve/distflow/memory-backend.ts';
import { QueuePair } from '../src/flowserve/distflow/network/queue-pair.ts';
import { SocketBackend } from '../src/flowserve/distflow/network/socket-backend.ts';
import type { Offer } from '../src/flowserve/distflow/offers.ts';
import type { LayerRange } from '../src/flowserve/distflow/scatter.ts';
import { type Generations, PLAIN, type Terms } from '../src/flowserve/distflow/transfer.ts';
import { CARD_DEADLINE_MS } from '../src/flowserve/kv/kv-network.ts';
import { CARD_THREAD, type CardData, PULLING_THREAD } from './distflow-card.ts';
import { allocate, Sides, scattered } from './distflow-sides.ts';
import { atLeast, digits, isAsked, isWhole, medianRatio, ROUNDS, resultsPath, takeTurns } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const KIB = 1_024;
const SIZES = [4, 16, 64, 256, 1_024, 4_096].map((size) => size * KIB);
/** Of each turn: short, so that a machine that others use disturbs few of them. */
const SLICE_BYTES = 4 << 20;
/** Turns go round them, so that no turn finds in the cache what the one before it has copied: together they are more than the last-level cache holds. */
const SLICES = 8;
const NETWORK_BYTES = 32 << 20;
const LAYERS = 4;
const WARM_ROUNDS = 3;
const GOAL = { ratio: 0.7, from_bytes: 64 * KIB } as const;
const TURNS = 5 * ROUNDS;
const gigabytes = (bytes: number, us: number): number => bytes / us / 1_000;

function timed_us(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) * 1_000;
}

const OWNER = { die: 1, epoch: 1 };
const layersOf = (bytes: number): LayerRange => ({ layer_bytes: bytes / LAYERS, first: 0, end: LAYERS });

type Slice = {
  readonly from: readonly number[];
  readonly sources: number[];
  readonly targets: number[];
  readonly generations: Generations;
  readonly sums: number[];
};

/** Scattered blocks that are held, with what proves them. */
function makeSlices(sides: Sides, count: number): Slice[] {
  const [from, to] = [scattered(count * SLICES, 1), scattered(count * SLICES, 2)];
  const { kv } = sides.places[0];
  for (const block of from) sides.pool.hold(block);
  return Array.from({ length: SLICES }, (_, slice): Slice => {
    const blocks = from.slice(slice * count, (slice + 1) * count);
    const sources = sides.addresses(0, blocks);
    const generations = { table: kv.generations, blocks: Int32Array.from(blocks), values: blocks.map((block) => sides.pool.generationOf(block)) };
    return {
      from: blocks,
      sources,
      targets: sides.addresses(1, to.slice(slice * count, (slice + 1) * count)),
      generations,
      sums: sources.map((at) => sides.sumOf(at)),
    };
  });
}

function opened(sides: Sides, { from }: Slice): Offer<string> {
  const offer = sides.offers.open('o', from, Number.POSITIVE_INFINITY);
  if (offer === null) throw new Error('no slot is free');
  return offer;
}

/** One thread hosts both; `segments` 2: they lie in different ones. */
async function measureMemory(segments: 1 | 2): Promise<unknown[]> {
  const rows = [];
  for (const bytes of SIZES) {
    const count = SLICE_BYTES / bytes;
    const sides = new Sides(allocate({ segments, layers: LAYERS, layer_bytes: bytes / LAYERS, blocks: 2 * count * SLICES }));
    const instance = new Instance<string>(0, 1, sides.space, new MemoryBackend(sides.space), sides.checksum);
    const slices = makeSlices(sides, count);
    let turn = 0;
    const next = (): Slice => slices[turn++ % SLICES] as Slice;
    const finish = (): void => {
      while (instance.pending > 0) instance.poll();
      const [ended] = instance.drain();
      if (ended?.end.state !== 'done') throw new Error(`a transfer failed: ${JSON.stringify(ended)}`);
    };
    const transfer = ({ sources, targets }: Slice, terms: Terms): number =>
      timed_us(() => {
        instance.transfer('t', OWNER, { addresses: sources, bytes }, { addresses: targets, bytes }, terms);
        finish();
      });
    const seal = (offer: Offer<string>): void => {
      while (!offer.isSealed) sides.offers.poll(0);
    };
    const pull = ({ registration }: Offer<string>, { targets }: Slice, guard: Guard | null = null): void => {
      instance.pull('p', OWNER, registration, sides.places[0], targets, guard);
      finish();
      sides.offers.poll(0);
      sides.offers.drain();
    };
    const came = await takeTurns(
      {
        copy: () => {
          const { sources, targets } = next();
          return timed_us(() => {
            for (let block = 0; block < count; block++) sides.space.copy(targets[block] as number, sources[block] as number, bytes);
          });
        },
        plain: () => transfer(next(), PLAIN),
        generations: () => {
          const slice = next();
          return transfer(slice, { ...PLAIN, layers: layersOf(bytes), generations: slice.generations });
        },
        checksums: () => {
          const slice = next();
          return transfer(slice, { ...PLAIN, layers: layersOf(bytes), generations: slice.generations, checksums: slice.sums });
        },
        // The holder's sums have brought its source into the cache, as they do where it is pulled soon after the prefill.
        pull: () => {
          const slice = next();
          const offer = opened(sides, slice);
          seal(offer);
          return timed_us(() => pull(offer, slice));
        },
        // As a pod does, unless `kv_checks` is off or all blocks are offered with their sums at rest.
        guarded: () => {
          const slice = next();
          const offer = opened(sides, slice);
          const rests = new Int32Array(count);
          seal(offer);
          const sum = (index: number, at: number): void => {
            rests[index] = sides.checksum.rest(0, at, bytes);
          };
          return timed_us(() => pull(offer, slice, { sum, keep: () => {} }));
        },
        seal: () => {
          const slice = next();
          const offer = opened(sides, slice);
          const us = timed_us(() => seal(offer));
          pull(offer, slice);
          return us;
        },
      },
      WARM_ROUNDS,
      TURNS,
    );
    const us = Object.fromEntries(Object.entries(came).map(([name, values]) => [name, median(values)])) as Record<keyof typeof came, number>;
    const ratio = {
      plain: medianRatio(came.copy, came.plain),
      generations: medianRatio(came.copy, came.generations),
      checksums: medianRatio(came.copy, came.checksums),
      pull: medianRatio(came.copy, came.pull),
      guarded: medianRatio(came.copy, came.guarded),
    };
    rows.push({ bytes, blocks: count, us, ratio, goal: bytes >= GOAL.from_bytes ? GOAL.ratio : null });
  }
  printTable(
    `Scattered KV blocks, ${SLICE_BYTES >> 20} MiB a turn, from NPU to NPU in ${segments === 1 ? 'one segment' : 'two segments'}: against memory.copy of the same blocks`,
    ['block', 'copy, GB/s', 'transfer', 'goal', '+ generations', '+ checksums', 'pull by lease', '+ sums at rest', "holder's sums, GB/s"],
    rows.map(({ bytes, us, ratio, goal }) => [
      `${bytes / KIB} KiB`,
      digits(gigabytes(SLICE_BYTES, us.copy)),
      digits(ratio.plain),
      atLeast(goal, ratio.plain),
      digits(ratio.generations),
      digits(ratio.checksums),
      digits(ratio.pull),
      digits(ratio.guarded),
      digits(gigabytes(SLICE_BYTES, us.seal)),
    ]),
  );
  return rows;
}

// ---------------------------------------------------------------- network

/** Two cards, each a thread of its own, on memories that share nothing; this thread pulls, and never serves its event loop meanwhile. */
async function measureNetwork(): Promise<unknown> {
  const bytes = 64 * KIB;
  const count = NETWORK_BYTES / bytes;
  const shape = { segments: 1, layers: LAYERS, layer_bytes: bytes / LAYERS, blocks: 2 * count };
  const [source, target] = [new Sides(allocate(shape)), new Sides(allocate(shape))];
  const startCard = async (workerData: CardData): Promise<{ worker: Worker; port: number }> => {
    const worker = new Worker(new URL('distflow-card.ts', import.meta.url), { workerData });
    const [port] = (await once(worker, 'message')) as [number];
    return { worker, port };
  };
  const served = await startCard({ start: source.start, line: null });
  const queue = new QueuePair();
  const pulling = await startCard({ start: target.start, line: { queue: queue.buffer, port: served.port } });
  const { control } = target.space;
  const backend = new SocketBackend({
    queue,
    owner: 1,
    ring: () => void control.ring(CARD_THREAD),
    now_ms: () => performance.now(),
    deadline_ms: CARD_DEADLINE_MS,
  });
  const instance = new Instance<string>(0, 1, target.space, backend, target.checksum);
  const [from, to] = [scattered(count, 1), scattered(count, 2)];
  for (const block of from) source.pool.hold(block);
  const [sources, targets] = [source.addresses(0, from), target.addresses(1, to)];
  const transfer = (blocks: number): number =>
    timed_us(() => {
      instance.transfer(
        't',
        OWNER,
        { addresses: sources.slice(0, blocks), bytes },
        { addresses: targets.slice(0, blocks), bytes },
        { ...PLAIN, checksums: 'later' },
      );
      while (instance.pending > 0) if (instance.poll() === 0) control.sleep(PULLING_THREAD, 1, () => false);
      const [ended] = instance.drain();
      if (ended?.end.state !== 'done') throw new Error(`a transfer failed: ${JSON.stringify(ended)}`);
    });
  const came = await takeTurns({ all: () => transfer(count), one: () => transfer(1) }, WARM_ROUNDS);
  const result = { bytes, blocks: count, gigabytes_per_s: gigabytes(NETWORK_BYTES, median(came.all)), one_block_us: median(came.one) };
  printTable(
    'The network, a stand-in for RoCE: TCP between two card threads, sums included',
    ['block', `${NETWORK_BYTES >> 20} MiB, GB/s`, 'one block, µs'],
    [[`${bytes / KIB} KiB`, digits(result.gigabytes_per_s), digits(result.one_block_us)]],
  );
  for (const [{ worker }, side] of [
    [pulling, target],
    [served, source],
  ] as const) {
    const exit = once(worker, 'exit');
    side.space.control.stop(CARD_THREAD);
    await exit;
  }
  return result;
}

const PARTS: Readonly<Record<string, () => unknown>> = { near: () => measureMemory(1), far: () => measureMemory(2), network: measureNetwork };

const results: Record<string, unknown> = {};
for (const [part, run] of Object.entries(PARTS)) if (isAsked(part)) results[part] = await run();
if (isWhole) writeResults(resultsPath('distflow'), results);
