/** Dies that exchange tokens and answers: random gates, experts that are plain arithmetic, and the sum that every form must reach bit for bit. */
import { offsetOf, segmentOf } from '../../src/fabric/address.ts';
import type { AddressSpace } from '../../src/fabric/address-space.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { instantiateKernels, loadKernelModule } from '../../src/model/kernels/kernels.ts';
import { type CollectMemory, layoutCollectMemory } from '../../src/xccl/combine.ts';
import { layoutReceiveMemory, type ReceivedTokens, type ReceiveMemory } from '../../src/xccl/dispatch.ts';
import type { Operation, Poll } from '../../src/xccl/operation.ts';
import { bundleBytesMax, packageBytesMax, repliesBytesMax } from '../../src/xccl/parts.ts';
import { stagingBytes, type WireFormat, type WireKernels } from '../../src/xccl/wire-format.ts';
import { scaleOf as scaleOfLargest } from '../golden/reference-int8.ts';
import { type App, type Dies, makeDies, numbers } from './rig.ts';

export const kernelModule = await loadKernelModule();

/** What all dies of one exchange agree on. */
export type Shape = {
  /** Ranks with tokens, and ranks with experts. */
  readonly sources: number;
  readonly destinations: number;
  readonly hidden: number;
  readonly top_k: number;
  readonly tokens_max: number;
  /** By expert id. */
  readonly rank_of_expert: readonly number[];
};

/** One rank's tokens of one round. */
export type Batch = {
  readonly tokens: number;
  readonly rows: Float32Array;
  readonly experts: Uint32Array;
  readonly weights: Float32Array;
  readonly residual: Float32Array;
  readonly shared: Float32Array | null;
};

/** Each rank's tokens of a round depend on the seed alone, so that threads need not tell one another. Counts are ragged, one in four empty. */
export function makeBatch(shape: Shape, seed: number, rank: number, round: number): Batch {
  const next = numbers(seed * 7_919 + rank * 104_729 + round * 1_299_709);
  const { hidden, top_k, tokens_max, rank_of_expert } = shape;
  next();
  const tokens = next() < 0.25 ? 0 : Math.floor(next() * (tokens_max + 1));
  const floats = (count: number): Float32Array => Float32Array.from({ length: count }, () => (next() - 0.5) * 4);
  const experts = new Uint32Array(tokens * top_k);
  const skew = next() < 0.3 ? 3 : 1;
  for (let token = 0; token < tokens; token++) {
    const chosen = new Set<number>();
    for (let tries = 0; chosen.size < top_k; tries++) chosen.add(tries < 50 ? Math.floor(next() ** skew * rank_of_expert.length) : tries - 50);
    experts.set([...chosen], token * top_k);
  }
  const shared = next() < 0.5 ? floats(tokens * hidden) : null;
  return { tokens, rows: floats(tokens * hidden), experts, weights: floats(tokens * top_k), residual: floats(tokens * hidden), shared };
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);
function bf16(x: number): number {
  float[0] = x;
  const word = bits[0] as number;
  bits[0] = ((word + 0x7fff + ((word >>> 16) & 1)) & 0xffff_0000) >>> 0;
  return float[0] as number;
}
function halfToEven(x: number): number {
  const low = Math.floor(x);
  return x - low > 0.5 || (x - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

export function scaleOf(row: Float32Array): number {
  const largest = row.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return largest === 0 ? 0 : scaleOfLargest(largest);
}

/** A row as it comes out of the wire. */
export function throughWire(row: Float32Array, format: WireFormat): Float32Array {
  if (format === 'f32') return row;
  if (format === 'bf16') return row.map(bf16);
  const scale = scaleOf(row);
  return scale === 0 ? row.map(() => 0) : row.map((x) => Math.fround(halfToEven(Math.fround(x / scale)) * scale));
}

/** Order of operations matters to its bits, as it does to a real expert's. */
export function computeExpert(expert: number, row: Float32Array): Float32Array {
  const { length } = row;
  return row.map((x, index) =>
    Math.fround(Math.fround(x * Math.fround(0.3 + expert * 0.07)) + Math.fround((row[(index + 1) % length] as number) / (expert + 2))),
  );
}

/** Sums in ascending expert id. */
export function expectedSum(shape: Shape, batch: Batch, there: WireFormat, back: (expert: number) => WireFormat): Float32Array {
  const { hidden, top_k } = shape;
  const sum = batch.residual.slice();
  for (let token = 0; token < batch.tokens; token++) {
    const slots = Array.from({ length: top_k }, (_, slot) => token * top_k + slot).sort((a, b) => (batch.experts[a] as number) - (batch.experts[b] as number));
    const row = throughWire(batch.rows.slice(token * hidden, (token + 1) * hidden), there);
    const answers = slots.map((slot) => throughWire(computeExpert(batch.experts[slot] as number, row), back(batch.experts[slot] as number)));
    for (let i = 0; i < hidden; i++) {
      let total = 0;
      slots.forEach((slot, index) => {
        total = Math.fround(total + Math.fround((batch.weights[slot] as number) * (answers[index]?.[i] as number)));
      });
      const at = token * hidden + i;
      if (batch.shared !== null) total = Math.fround(total + (batch.shared[at] as number));
      sum[at] = Math.fround((sum[at] as number) + total);
    }
  }
  return sum;
}

/** Where one die keeps what it sends, receives and sums. */
export type Desk = {
  readonly rows: number;
  readonly experts: number;
  readonly weights: number;
  readonly into: number;
  readonly shared: number;
  readonly answers: number;
  readonly collect: CollectMemory;
  readonly receive: ReceiveMemory;
};

export const pairsMax = ({ sources, tokens_max, top_k }: Shape): number => sources * tokens_max * top_k;

export function layoutDesk(shape: Shape, arena: Arena): Desk {
  const { hidden, top_k, tokens_max, sources } = shape;
  const rows = (count: number): number => arena.allocate(4 * count * hidden);
  return {
    rows: rows(tokens_max),
    experts: arena.allocate(4 * tokens_max * top_k),
    weights: arena.allocate(4 * tokens_max * top_k),
    into: rows(tokens_max),
    shared: rows(tokens_max),
    answers: rows(pairsMax(shape)),
    collect: layoutCollectMemory(tokens_max, top_k, hidden, arena),
    receive: layoutReceiveMemory(sources * tokens_max, pairsMax(shape), hidden, arena),
  };
}

/** Areas that hold whatever the gates may choose, in any format: f32 is the widest, but for rows of one or two numbers. */
export function areaBytes(shape: Shape): { dispatch_bytes: number; reply_bytes: number; app_bytes: number } {
  const { hidden, top_k, tokens_max, sources, destinations } = shape;
  const wide = Math.max(hidden, 4);
  const measure = new Arena(0);
  layoutDesk(shape, measure);
  const reply = repliesBytesMax('f32', pairsMax(shape), sources, wide) + bundleBytesMax('f32', tokens_max * top_k, destinations, wide);
  const round = (bytes: number): number => Math.ceil(bytes / 64) * 64;
  return {
    dispatch_bytes: round(packageBytesMax('f32', tokens_max, top_k, destinations, wide)),
    reply_bytes: round(reply),
    app_bytes: measure.used + stagingBytes(hidden),
  };
}

export type Desks = Dies & { readonly desks: readonly Desk[]; readonly kernels: readonly WireKernels[]; kernelsOf(die: number): WireKernels };

export function makeDesks(dies: number, shape: Shape, segments: number, areas: Partial<ReturnType<typeof areaBytes>> = {}): Desks {
  const { app_bytes, ...sizes } = { ...areaBytes(shape), ...areas };
  const made = makeDies(dies, { segments, sizes, app_bytes });
  const kernels = made.space.memories.map((memory) => instantiateKernels(kernelModule, memory));
  const desks = made.apps.map(({ address, bytes }: App) => layoutDesk(shape, new Arena(address, bytes)));
  return { ...made, desks, kernels, kernelsOf: (die) => kernels[segmentOf((made.apps[die] as App).address)] as WireKernels };
}

export const floatsAt = (space: AddressSpace, address: number, count: number): Float32Array =>
  space.floatsOf(address).subarray(offsetOf(address) / 4, offsetOf(address) / 4 + count);
export const wordsAt = (space: AddressSpace, address: number, count: number): Int32Array =>
  space.wordsOf(address).subarray(offsetOf(address) / 4, offsetOf(address) / 4 + count);

/** Fails at the first number whose bits differ. (Threads cannot import vitest.) */
export function sameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  const [a, b] = [actual, expected].map((floats) => new Uint32Array(floats.slice().buffer)) as [Uint32Array, Uint32Array];
  if (a.length !== b.length) throw new Error(`${what}: ${a.length} numbers, not ${b.length}`);
  const at = a.findIndex((word, index) => word !== b[index]);
  if (at >= 0) throw new Error(`${what}: number ${at} is ${actual[at]}, not ${expected[at]}`);
}

/** Lays a batch on the desk. */
export function layBatch(space: AddressSpace, desk: Desk, batch: Batch): void {
  floatsAt(space, desk.rows, batch.rows.length).set(batch.rows);
  wordsAt(space, desk.experts, batch.experts.length).set(batch.experts);
  floatsAt(space, desk.weights, batch.weights.length).set(batch.weights);
  floatsAt(space, desk.into, batch.residual.length).set(batch.residual);
  if (batch.shared !== null) floatsAt(space, desk.shared, batch.shared.length).set(batch.shared);
}

/** What the experts make of what was received, a row a pair, written to `to`. */
export function computeReceived(space: AddressSpace, received: ReceivedTokens, to: number): void {
  const { memory, pairs, hidden } = received;
  const rows = floatsAt(space, memory.rows, received.rows * hidden);
  const rowOf = wordsAt(space, memory.pair_rows, pairs);
  const expertOf = wordsAt(space, memory.pair_experts, pairs);
  const answers = floatsAt(space, to, pairs * hidden);
  for (let pair = 0; pair < pairs; pair++) {
    const row = rowOf[pair] as number;
    answers.set(computeExpert(expertOf[pair] as number, rows.slice(row * hidden, (row + 1) * hidden)), pair * hidden);
  }
}

/** Operations one after the other, each made when the one before it is done; ends with the first that fails. */
export function inTurn(makers: readonly (() => Operation)[]): Operation {
  let at = 0;
  let operation: Operation | null = null;
  return {
    poll: (): Poll => {
      const maker = makers[at];
      if (maker === undefined) return { state: 'done' };
      operation ??= maker();
      const poll = operation.poll();
      if (poll.state !== 'done') return poll;
      at++;
      operation = null;
      return at === makers.length ? poll : { state: 'pending', missing: [] };
    },
  };
}
