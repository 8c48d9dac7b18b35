/**
 * A shared memory with the kernels over it, and places in it whose surroundings are watched: a kernel that writes beside its output is caught.
 * @module
 */
import { expect } from 'vitest';
import { instantiateKernels, type Kernels, loadKernelModule } from '../../src/model/kernels/kernels.ts';

const GUARD_BYTES = 64;
const GUARD = 0x5a;
const FIRST = 65536; // after the guard page

export type Arena = {
  kernels: Kernels;
  memory: WebAssembly.Memory;
  /** Room for `bytes`, filled with NaN patterns, guarded on both sides. */
  room(bytes: number): number;
  floats(values: ArrayLike<number>): number;
  words(values: ArrayLike<number>): number;
  halves(values: ArrayLike<number>): number;
  /** A copy of `count` floats or words. */
  readFloats(address: number, count: number): Float32Array;
  readWords(address: number, count: number): Uint32Array;
  /** Fails if a guard was written, then forgets all places. */
  reset(): void;
};

export async function createArena(pages = 512): Promise<Arena> {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const kernels = instantiateKernels(await loadKernelModule(), memory);
  const bytes = new Uint8Array(memory.buffer);
  const guards: number[] = [];
  let top = FIRST;

  const guard = (): void => {
    bytes.fill(GUARD, top, top + GUARD_BYTES);
    guards.push(top);
    top += GUARD_BYTES;
  };
  const room = (size: number): number => {
    if (guards.length === 0) guard();
    const address = top;
    top += size;
    if (top + 2 * GUARD_BYTES > bytes.length) throw new RangeError(`the arena of ${bytes.length} bytes is full`);
    bytes.fill(0xff, address, top); // NaN
    guard();
    top = (top + 15) & ~15;
    return address;
  };
  const put = (source: Float32Array | Uint32Array | Uint16Array): number => {
    const address = room(source.byteLength);
    bytes.set(new Uint8Array(source.buffer, source.byteOffset, source.byteLength), address);
    return address;
  };
  return {
    kernels,
    memory,
    room,
    floats: (values) => put(Float32Array.from(values)),
    words: (values) => put(Uint32Array.from(values)),
    halves: (values) => put(Uint16Array.from(values)),
    readFloats: (address, count) => new Float32Array(memory.buffer, address, count).slice(),
    readWords: (address, count) => new Uint32Array(memory.buffer, address, count).slice(),
    reset() {
      for (const g of guards) for (let i = g; i < g + GUARD_BYTES; i++) if (bytes[i] !== GUARD) throw new Error(`a kernel wrote outside its output, at ${i}`);
      guards.length = 0;
      top = FIRST;
    },
  };
}

/** Equal bit for bit; all NaNs are one. */
export function expectSameBits(actual: Float32Array, expected: ArrayLike<number>): void {
  const want = Float32Array.from(expected);
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length);
  const b = new Uint32Array(want.buffer);
  expect(actual.length).toBe(want.length);
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i] || (Number.isNaN(actual[i]) && Number.isNaN(want[i]))) continue;
    expect.fail(`element ${i}: ${actual[i]} (${a[i]?.toString(16)}), reference ${want[i]} (${b[i]?.toString(16)})`);
  }
}

/** A repeatable stream of floats about ±2, by xorshift32. */
export function noise(seed: number): (count: number) => Float32Array {
  let s = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1;
  const next = (): number => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) / 2 ** 32;
  };
  next();
  return (count) => Float32Array.from({ length: count }, () => (next() + next() + next() - 1.5) * 2);
}

/** BF16 by truncation: the raw halves, and what they mean. */
export function toBf16(values: Float32Array): { raw: Uint16Array; widened: Float32Array } {
  const bits = new Uint32Array(values.slice().buffer);
  const raw = Uint16Array.from(bits, (b) => b >>> 16);
  const widened = new Float32Array(Uint32Array.from(raw, (h) => h << 16).buffer);
  return { raw, widened };
}

/** Asserts a number of runs of a property; the seed is printed by fast-check on failure. */
export const RUNS = 40;
