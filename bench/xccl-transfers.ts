/**
 * Point to point in bulk, by size and by path, against memory.copy of the same bytes; in the shape of xDeepServe's figure 5: bytes → µs from the start of
 * the send to its completion.
 * @module
 */
import type { AreaSizes } from '../src/xccl/areas.ts';
import type { Operation } from '../src/xccl/operation.ts';
import { DMA_FROM_BYTES } from '../src/xccl/point-to-point.ts';
import type { Receive } from '../src/xccl/receive.ts';
import { type Duo, type Side, SPINS_PER_LOOK } from './fabric-duo.ts';
import { atLeast, digits, medianRatio, takeTurns } from './fabric-report.ts';
import { median, printTable } from './harness.ts';
import { type Dies, type DiesOptions, diesNamed, openBoth, TIMEOUT_MS } from './xccl-dies.ts';

const KIB = 1_024;
/** From 4 KiB to 16 MiB, with those that can be read off figure 5: 36, 1,152 and 9,216. */
const SIZES = [4, 16, 36, 64, 256, 1_152, 4_096, 9_216, 16_384].map((size) => size * KIB);
const CROSSOVER_SIZES = [1, 2, 4, 8, 16, 32, 64].map((size) => size * KIB);
const SLICE_BYTES = 48 << 20;
const MESSAGES = { min: 8, max: 1_500, lent: 500 } as const;
/** First in each slice, not timed: its memory is in the cache as far as it goes, whatever was measured before. */
const WARM_MESSAGES = 2;
const SLOT_BYTES = 64 * KIB;
const BYTES_MAX = 16 << 20;
const WARM_ROUNDS = 2;
const GOAL = { ratio: 0.7, from_bytes: 64 * KIB } as const;

const areasWith = (slot_bytes: number): Omit<AreaSizes, 'dies'> => ({ slots: 2, slot_bytes, dispatch_bytes: 64, reply_bytes: 64, gather_bytes: 0 });
const pair = (threads: 1 | 2, segments: number, slot_bytes: number): DiesOptions => ({
  ...{ dies: 2, threads, segments, sizes: areasWith(slot_bytes), data_bytes: BYTES_MAX },
});

type Way = 'slots' | 'dma' | 'lease';
/** `window`: messages that are under way at once. */
type Slice = { readonly dies: string; readonly way: Way; readonly bytes: number; readonly messages: number; readonly window: number };

/** Messages of one end, one after the other or a window of them at once. */
class Stream {
  readonly #start: (index: number) => Operation;
  readonly #messages: number;
  readonly #under: Operation[] = [];
  #started = 0;
  #ended = 0;
  /** Leases that were of a copy. */
  copied = 0;

  constructor(start: (index: number) => Operation, { messages, window }: Slice) {
    this.#start = start;
    this.#messages = messages;
    this.#under.length = window;
  }

  /** Polls the first that is under way. True when all have ended. */
  step(): boolean {
    if (this.#ended === this.#messages) return true;
    const window = this.#under.length;
    while (this.#started < this.#messages && this.#started - this.#ended < window) {
      this.#under[this.#started % window] = this.#start(this.#started);
      this.#started++;
    }
    const first = this.#under[this.#ended % window] as Operation;
    const end = first.poll();
    if (end.state === 'failed') throw end.error;
    if (end.state === 'done') {
      const { lease = null } = first as Partial<Receive>;
      if (lease?.copied) this.copied++;
      lease?.release();
      this.#ended++;
    }
    return this.#ended === this.#messages;
  }
}

const warm = (slice: Slice): Slice => ({ ...slice, messages: WARM_MESSAGES });

/** Die 0 sends, die 1 receives; the events are the messages' numbers. */
const sending = (dies: Dies, slice: Slice): Stream => {
  const p2p = dies.pointToPoint(0);
  const { domain, data } = dies.start;
  const { bytes, way } = slice;
  return new Stream((event) => {
    const message = { domain, to: 1, event, address: data[0] as number, bytes, timeout_ms: TIMEOUT_MS };
    return way === 'lease' ? p2p.lend(message) : p2p.send(message, way);
  }, slice);
};
const receiving = (dies: Dies, slice: Slice): Stream => {
  const p2p = dies.pointToPoint(1);
  const { domain, data } = dies.start;
  const { bytes, way } = slice;
  return new Stream((event) => {
    const message = { domain, from: 0, event, address: data[1] as number, bytes, timeout_ms: TIMEOUT_MS };
    return way === 'lease' ? p2p.borrow(message) : p2p.receive(message);
  }, slice);
};

/** The receiver's half, where it is another thread. */
export function receiveMessages(side: Side, slice: Slice): void {
  const dies = diesNamed(slice.dies);
  run(side, receiving(dies, warm(slice)));
  const stream = receiving(dies, slice);
  side.meet();
  run(side, stream);
  side.meet();
}

function run(side: Side, stream: Stream): void {
  for (let turn = 1; !stream.step(); turn++) if (turn % SPINS_PER_LOOK === 0) side.mustGoOn();
}

function runBoth(sender: Stream, receiver: Stream): void {
  for (let areDone = false; !areDone; ) {
    const isSent = sender.step();
    areDone = receiver.step() && isSent;
  }
}

/** Bytes used where they were, and leases that were copied since they could not be. */
type Leases = { readonly zero_copy_bytes: number; readonly lease_copies: number };
function leasesOf(dies: Dies): Leases {
  const { zero_copy_bytes, lease_copies } = dies.pointToPoint(1).counters;
  return { zero_copy_bytes, lease_copies };
}
export const countLeases = (_side: Side, name: string): Leases => leasesOf(diesNamed(name));

const messagesOf = (bytes: number): number => Math.min(MESSAGES.max, Math.max(MESSAGES.min, Math.floor(SLICE_BYTES / bytes)));

/** Two dies that lie and live somewhere, by the name under which both threads know them. */
class Pair {
  readonly name: string;
  readonly dies: Dies;
  readonly #duo: Duo;

  constructor(duo: Duo, name: string, dies: Dies) {
    this.#duo = duo;
    this.name = name;
    this.dies = dies;
  }

  static async open(duo: Duo, name: string, options: DiesOptions): Promise<Pair> {
    return new Pair(duo, name, await openBoth(duo, name, options));
  }

  /** µs a message. */
  async send_us(way: Way, bytes: number, window = 1): Promise<number> {
    const isInPlace = way === 'lease' && this.dies.start.options.segments === 1;
    const slice: Slice = { dies: this.name, way, bytes, messages: isInPlace ? MESSAGES.lent : messagesOf(bytes), window };
    const took_ms = this.dies.start.options.threads === 1 ? this.#onOneThread(slice) : await this.#onTwoThreads(slice);
    return (took_ms / slice.messages) * 1000;
  }

  copy_us(bytes: number): number {
    const { space, start: dies } = this.dies;
    const [from, to] = dies.data as [number, number];
    const copies = messagesOf(bytes);
    for (let copy = 0; copy < WARM_MESSAGES; copy++) space.copy(to, from, bytes);
    const start = performance.now();
    for (let copy = 0; copy < copies; copy++) space.copy(to, from, bytes);
    return ((performance.now() - start) / copies) * 1000;
  }

  /** What the receiver counted of the leases that it was given. */
  leases(): Leases | Promise<Leases> {
    return this.dies.start.options.threads === 1 ? leasesOf(this.dies) : this.#duo.there<Leases>('countLeases', this.name);
  }

  #onOneThread(slice: Slice): number {
    runBoth(sending(this.dies, warm(slice)), receiving(this.dies, warm(slice)));
    const start = performance.now();
    runBoth(sending(this.dies, slice), receiving(this.dies, slice));
    return performance.now() - start;
  }

  async #onTwoThreads(slice: Slice): Promise<number> {
    const duo = this.#duo;
    const there = duo.there('receiveMessages', slice);
    run(duo, sending(this.dies, warm(slice)));
    const stream = sending(this.dies, slice);
    duo.meet();
    const start = performance.now();
    run(duo, stream);
    const took_ms = performance.now() - start;
    duo.meet();
    await there;
    return took_ms;
  }
}

// ---------------------------------------------------------------- figure 5

const WINDOW = 4;

async function latencies(duo: Duo, threads: 1 | 2): Promise<{ rows: readonly Row[]; summary: Summary }> {
  const near = await Pair.open(duo, `near ${threads}`, pair(threads, 1, SLOT_BYTES));
  const wide = await Pair.open(duo, `wide ${threads}`, pair(threads, 1, BYTES_MAX));
  const far = await Pair.open(duo, `far ${threads}`, pair(threads, 2, SLOT_BYTES));
  const rows = [];
  for (const bytes of SIZES) {
    const came = await takeTurns(
      {
        copy: () => near.copy_us(bytes),
        slots: () => near.send_us('slots', bytes),
        slot: () => wide.send_us('slots', bytes),
        dma: () => near.send_us('dma', bytes),
        dmas: () => near.send_us('dma', bytes, WINDOW),
        lease: () => near.send_us('lease', bytes),
        copyFar: () => far.copy_us(bytes),
        dmaFar: () => far.send_us('dma', bytes),
        leaseFar: () => far.send_us('lease', bytes),
      },
      WARM_ROUNDS,
    );
    const us = Object.fromEntries(Object.entries(came).map(([name, values]) => [name, median(values)])) as Record<keyof typeof came, number>;
    const ratios = {
      slots: medianRatio(came.copy, came.slots),
      dma: medianRatio(came.copy, came.dma),
      dmas: medianRatio(came.copy, came.dmas),
      dmaFar: medianRatio(came.copyFar, came.dmaFar),
      leaseFar: medianRatio(came.copyFar, came.leaseFar),
    };
    rows.push({ bytes, chunks: Math.ceil(bytes / SLOT_BYTES), us, ratios, goal: bytes >= GOAL.from_bytes ? GOAL.ratio : null });
  }
  printLatencies(threads, rows);
  const lease = rows.map(({ us }) => us.lease);
  const summary: Summary = {
    threads,
    crossover_bytes: await crossover(near),
    crossover_across_bytes: await crossover(far),
    zeroCopyGrowth: (lease.at(-1) as number) / (lease[0] as number),
    near: await near.leases(),
    far: await far.leases(),
  };
  return { rows, summary };
}

/** The size from which on the direct path is no slower, at all sizes that were tried; null: at none. */
async function crossover(dies: Pair): Promise<number | null> {
  let from: number | null = null;
  for (const bytes of CROSSOVER_SIZES) {
    const came = await takeTurns({ slots: () => dies.send_us('slots', bytes), dma: () => dies.send_us('dma', bytes) }, WARM_ROUNDS);
    if (medianRatio(came.dma, came.slots) > 1) from = null;
    else from ??= bytes;
  }
  return from;
}

type Summary = {
  readonly threads: number;
  readonly crossover_bytes: number | null;
  readonly crossover_across_bytes: number | null;
  /** A loan of the largest message beside one of the smallest. */
  readonly zeroCopyGrowth: number;
  readonly near: Leases;
  readonly far: Leases;
};
type Row = {
  readonly bytes: number;
  readonly chunks: number;
  readonly us: Readonly<Record<'copy' | 'slots' | 'slot' | 'dma' | 'dmas' | 'lease' | 'copyFar' | 'dmaFar' | 'leaseFar', number>>;
  readonly ratios: Readonly<Record<'slots' | 'dma' | 'dmas' | 'dmaFar' | 'leaseFar', number>>;
  readonly goal: number | null;
};

const where = (threads: 1 | 2): string => (threads === 1 ? 'both dies on one thread' : 'a thread each');

function printLatencies(threads: 1 | 2, rows: readonly Row[]): void {
  printTable(
    `Figure 5: µs a message, from the start of the send to its completion; ${where(threads)}`,
    [
      'KiB',
      'memory.copy',
      'chunks',
      `slots of ${SLOT_BYTES / KIB} KiB`,
      'one slot',
      'dma',
      `dma, ${WINDOW} at once`,
      'zero-copy',
      'across: memory.copy',
      'dma',
      'zero-copy',
    ],
    rows.map(({ bytes, chunks, us }) => [
      String(bytes / KIB),
      digits(us.copy),
      String(chunks),
      ...[us.slots, us.slot, us.dma, us.dmas, us.lease, us.copyFar, us.dmaFar, us.leaseFar].map(digits),
    ]),
  );
  printTable(
    `The same as a part of memory.copy's rate; ${where(threads)}`,
    ['KiB', 'slots', 'dma', 'goal', `dma, ${WINDOW} at once`, 'goal', 'across: dma', 'goal', 'zero-copy'],
    rows.map(({ bytes, ratios, goal }) => [
      String(bytes / KIB),
      digits(ratios.slots),
      digits(ratios.dma),
      atLeast(goal, ratios.dma),
      digits(ratios.dmas),
      atLeast(goal, ratios.dmas),
      digits(ratios.dmaFar),
      atLeast(goal, ratios.dmaFar),
      digits(ratios.leaseFar),
    ]),
  );
}

export async function measureTransfers(duo: Duo): Promise<unknown> {
  const measured = [await latencies(duo, 1), await latencies(duo, 2)];
  const kib = (bytes: number | null): string => (bytes === null ? `over ${(CROSSOVER_SIZES.at(-1) as number) / KIB}` : String(bytes / KIB));
  const copies = ({ zero_copy_bytes, lease_copies }: Leases): string => `${lease_copies} copied, ${digits(zero_copy_bytes / 2 ** 30)} GiB in place`;
  printTable(
    `Straight from memory to memory is no slower than slots from so many KiB on (the code has it at ${DMA_FROM_BYTES / KIB}); and what the counters say of loans`,
    ['', 'one segment', 'across', 'loan of 16 MiB / of 4 KiB', 'one segment', 'across'],
    measured.map(({ summary }) => [
      where(summary.threads as 1 | 2),
      kib(summary.crossover_bytes),
      kib(summary.crossover_across_bytes),
      digits(summary.zeroCopyGrowth),
      copies(summary.near),
      copies(summary.far),
    ]),
  );
  return measured;
}
