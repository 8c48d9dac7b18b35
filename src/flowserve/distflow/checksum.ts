/**
 * What proves that a copy is whole: 32 bits over a block, chained chunk by chunk, so that each chunk is summed while it is still in the cache.
 *
 *   block   | layer 0 | layer 1 | …        sum of a block = … checksum(checksum(0, chunk 0), chunk 1) …
 *   layer   | chunk | chunk | rest         chunks never reach over a layer's end, so that a layer can be summed before the next is there
 * @module
 */
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { COPY_CHECKSUM_MODULE } from '../../model/kernels/copy-checksum.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';

/** What is summed in one go: small enough for the second-level cache. Both ends must cut alike, so it is no option. */
export const CHUNK_BYTES = 262_144;

/** `seed`: the sum of what came before, 0 at the start. Addresses and bytes are multiples of 4. Results are i32. */
export type Checksum = {
  readonly sum: (seed: number, address: number, bytes: number) => number;
  /** Copies from memory to memory, and sums what was copied. */
  readonly copy: (seed: number, to: number, from: number, bytes: number) => number;
  /** Of memory that is looked at again and again where it rests: another sum, twice as fast (kernels/assembly/resting-sum.ts). */
  readonly rest: (seed: number, address: number, bytes: number) => number;
};

/**
 * By the kernels, by segment: 15–23 GB/s on a core from 16 KiB on, 0.1 µs a call (Node 24, Deno 2.9). Within a segment a copy and its sum are one pass over
 * the memory, and so they are between two, by a module that imports both.
 */
export function kernelChecksum(space: AddressSpace, kernels: readonly Pick<Kernels, 'checksum' | 'copyChecksum' | 'restingSum'>[]): Checksum {
  const of = (address: number): (typeof kernels)[0] => kernels[segmentOf(address)] as (typeof kernels)[0];
  const sum: Checksum['sum'] = (seed, address, bytes) => of(address).checksum(seed, offsetOf(address), bytes);
  /** By segment to × segments + segment from. */
  const between: CopyChecksum[] = [];
  const copyBetween = (to: number, from: number): CopyChecksum => {
    const pair = segmentOf(to) * space.memories.length + segmentOf(from);
    between[pair] ??= copyChecksumBetween(space.memory(to), space.memory(from));
    return between[pair];
  };
  return {
    sum,
    rest: (seed, address, bytes) => of(address).restingSum(seed, offsetOf(address), bytes),
    copy: (seed, to, from, bytes) =>
      segmentOf(to) === segmentOf(from)
        ? of(to).copyChecksum(seed, offsetOf(to), offsetOf(from), bytes)
        : copyBetween(to, from)(seed, offsetOf(to), offsetOf(from), bytes),
  };
}

/** The same of copies that are proved by the sum at rest: of what has come, while it is in the cache. */
export function checksumAtRest(space: AddressSpace, { rest }: Checksum): Checksum {
  const copy: Checksum['copy'] = (seed, to, from, bytes) => {
    space.copy(to, from, bytes);
    return rest(seed, to, bytes);
  };
  return { sum: rest, rest, copy };
}

type CopyChecksum = Kernels['copyChecksum'];
let compiled: WebAssembly.Module | null = null;

function copyChecksumBetween(target: WebAssembly.Memory, source: WebAssembly.Memory): CopyChecksum {
  compiled ??= new WebAssembly.Module(Uint8Array.from(atob(COPY_CHECKSUM_MODULE), (character) => character.charCodeAt(0)));
  return new WebAssembly.Instance(compiled, { env: { target, source } }).exports['copyChecksum'] as CopyChecksum;
}

const P = 0x9e37_79b1;
const LANES = 32;
const mix = (h: number, word: number): number => {
  const x = h ^ word;
  return Math.imul((x << 13) | (x >>> 19), P);
};

/** The same sums where no kernels are, as on a virtual clock with the hash model: about 1 GB/s. The formula stands in kernels/assembly/checksum.ts. */
export function plainChecksum(space: AddressSpace): Checksum {
  const lanes = new Int32Array(LANES);
  const sum: Checksum['sum'] = (seed, address, bytes) => {
    const words = space.wordsOf(address);
    let at = offsetOf(address) / 4;
    const end = at + bytes / 4;
    const whole = end - ((bytes / 4) % LANES);
    lanes.fill(seed);
    for (; at < whole; at += LANES) for (let lane = 0; lane < LANES; lane++) lanes[lane] = mix(lanes[lane] as number, words[at + lane] as number);
    let h = seed ^ bytes;
    for (let lane = 0; lane < LANES; lane++) h = mix(h, lanes[lane] as number);
    for (; at < end; at++) h = mix(h, words[at] as number);
    return Math.imul(h ^ (h >>> 15), P);
  };
  const rest: Checksum['rest'] = (seed, address, bytes) => {
    const words = space.wordsOf(address);
    let at = offsetOf(address) / 4;
    const end = at + bytes / 4;
    const whole = end - ((bytes / 4) % LANES);
    lanes.fill(seed);
    for (; at < whole; at += LANES) for (let lane = 0; lane < LANES; lane++) lanes[lane] = (lanes[lane] as number) + (words[at + lane] as number);
    let h = seed ^ bytes;
    for (let lane = 0; lane < LANES; lane++) h = mix(h, lanes[lane] as number);
    for (; at < end; at++) h = mix(h, words[at] as number);
    return h;
  };
  return {
    sum,
    rest,
    copy: (seed, to, from, bytes) => {
      space.copy(to, from, bytes);
      return sum(seed, to, bytes);
    },
  };
}
