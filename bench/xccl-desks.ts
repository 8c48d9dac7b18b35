/**
 * What ranks need that exchange tokens: the gates' choice, drawn once from a seed so that both threads draw the same, and room for what goes and comes.
 * @module
 */
import { offsetOf } from '../src/fabric/address.ts';
import type { AddressSpace } from '../src/fabric/address-space.ts';
import { Arena } from '../src/fabric/arena.ts';
import type { AreaSizes } from '../src/xccl/areas.ts';
import { type CollectMemory, layoutCollectMemory } from '../src/xccl/combine.ts';
import { layoutReceiveMemory, type ReceiveMemory } from '../src/xccl/dispatch.ts';
import { bundleBytesMax, packageBytesMax, repliesBytesMax } from '../src/xccl/parts.ts';

/** Numbers in a row; experts that a token goes to; experts in all. */
export const HIDDEN = 512;
export const TOP_K = 8;
export const EXPERTS = 256;

export type Shape = {
  /** Ranks with tokens, and ranks with experts. */
  readonly sources: number;
  readonly destinations: number;
  readonly tokens_max: number;
};

/** Experts lie side by side, as many at each. */
export const rankOfExpert = ({ destinations }: Shape): number[] =>
  Array.from({ length: EXPERTS }, (_, expert) => Math.floor((expert * destinations) / EXPERTS));

/** A repeatable stream of 0 ≤ x < 1. */
function numbers(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Experts of the rank's tokens, [tokens, TOP_K], each once a token. A smaller batch is its beginning. */
export function choiceOf(source: number, tokens: number): Uint32Array {
  const next = numbers(source);
  const chosen = new Uint32Array(tokens * TOP_K);
  for (let token = 0; token < tokens; token++) {
    const experts = new Set<number>();
    while (experts.size < TOP_K) experts.add(Math.floor(next() * EXPERTS));
    chosen.set([...experts], token * TOP_K);
  }
  return chosen;
}

/** Where one rank keeps what it sends, receives and sums. */
export type Desk = {
  readonly rows: number;
  readonly experts: number;
  readonly weights: number;
  readonly into: number;
  readonly answers: number;
  readonly collect: CollectMemory;
  readonly receive: ReceiveMemory;
};

/** Twice what a rank with experts gets if all get the same, and some: gates are not even. */
const pairsMax = ({ sources, destinations, tokens_max }: Shape): number => 2 * Math.ceil((sources * tokens_max * TOP_K) / destinations) + 256;

function layoutDesk(shape: Shape, arena: Arena): Desk {
  const { tokens_max } = shape;
  const rows = (count: number): number => arena.allocate(4 * count * HIDDEN);
  return {
    rows: rows(tokens_max),
    experts: arena.allocate(4 * tokens_max * TOP_K),
    weights: arena.allocate(4 * tokens_max * TOP_K),
    into: rows(tokens_max),
    answers: rows(pairsMax(shape)),
    collect: layoutCollectMemory(tokens_max, TOP_K, HIDDEN, arena),
    receive: layoutReceiveMemory(pairsMax(shape), pairsMax(shape), HIDDEN, arena),
  };
}

const roundUp64 = (bytes: number): number => Math.ceil(bytes / 64) * 64;

export function sizesOf(shape: Shape): { sizes: Omit<AreaSizes, 'dies'>; data_bytes: number } {
  const { sources, destinations, tokens_max } = shape;
  const measure = new Arena(0);
  layoutDesk(shape, measure);
  const dispatch_bytes = roundUp64(packageBytesMax('f32', tokens_max, TOP_K, destinations, HIDDEN));
  const reply_bytes = roundUp64(repliesBytesMax('f32', pairsMax(shape), sources, HIDDEN) + bundleBytesMax('f32', tokens_max * TOP_K, destinations, HIDDEN));
  return { sizes: { slots: 2, slot_bytes: 64, dispatch_bytes, reply_bytes, gather_bytes: 0 }, data_bytes: measure.used };
}

export const deskAt = (shape: Shape, base: number): Desk => layoutDesk(shape, new Arena(base));

/** Lays out a rank's desk at `base` and lays the tokens of source `source` on it. */
export function setDesk(space: AddressSpace, shape: Shape, base: number, source: number): Desk {
  const desk = deskAt(shape, base);
  const next = numbers(source + 7_919);
  const fill = (address: number, count: number): void => {
    const floats = space.floatsOf(address).subarray(offsetOf(address) / 4, offsetOf(address) / 4 + count);
    for (let index = 0; index < count; index++) floats[index] = next() - 0.5;
  };
  fill(desk.rows, shape.tokens_max * HIDDEN);
  fill(desk.weights, shape.tokens_max * TOP_K);
  fill(desk.into, shape.tokens_max * HIDDEN);
  fill(desk.answers, pairsMax(shape) * HIDDEN);
  space.wordsOf(desk.experts).set(choiceOf(source, shape.tokens_max), offsetOf(desk.experts) / 4);
  return desk;
}
