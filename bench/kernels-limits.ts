/**
 * What the kernels are held against: the core's peak of separate multiplies and adds, and a plain read of memory. A WASM module of its own,
 * generated, so that both go through the same compiler as the kernels.
 * @module
 */
import { setTimeout } from 'node:timers/promises';
import { compileAssembly } from '../scripts/build-kernels.ts';
import { type Effort, race } from './harness.ts';

const CHAINS_MAX = 14;
const UNROLL = 4;

/** m and c of a = a m + c, passed in: a constant would be made anew in every step of the loop, as V8 hoists none. */
const FACTOR = 0.999;
const TERM = 0.001;

/** `chains` independent accumulators in registers, a = a m + c, UNROLL steps an iteration. */
function chainsSource(chains: number): string {
  const all = Array.from({ length: chains }, (_, i) => i);
  const step = all.map((i) => `a${i} = f32x4.add(f32x4.mul(a${i}, m), c);`).join(' ');
  return `export function chains${chains}(n: i32, factor: f32, term: f32): f32 {
    const m = f32x4.splat(factor), c = f32x4.splat(term);
    ${all.map((i) => `let a${i} = f32x4.splat(${i}.5);`).join(' ')}
    for (let k = 0; k < n; k++) { ${`${step} `.repeat(UNROLL)} }
    return f32x4.extract_lane(${all.reduce((sum, i) => (i === 0 ? 'a0' : `f32x4.add(${sum}, a${i})`), '')}, 0);
  }`;
}

const READ_SOURCE = `export function read(p: usize, bytes: usize): i32 {
  let a = i32x4.splat(0), b = a, c = a, d = a;
  for (const end = p + bytes; p < end; p += 128) {
    a = v128.xor(a, v128.xor(v128.load(p), v128.load(p, 16)));
    b = v128.xor(b, v128.xor(v128.load(p, 32), v128.load(p, 48)));
    c = v128.xor(c, v128.xor(v128.load(p, 64), v128.load(p, 80)));
    d = v128.xor(d, v128.xor(v128.load(p, 96), v128.load(p, 112)));
  }
  return i32x4.extract_lane(v128.xor(v128.xor(a, b), v128.xor(c, d)), 0);
}`;

export type Limits = {
  /** Reads `bytes` (a multiple of 128) from p. */
  read: (p: number, bytes: number) => number;
  /** One slice of the best chain count, and its floating-point operations. */
  peak: { chains: number; work: number; run: () => void };
  /** Operations a second by number of chains. */
  byChains: number[];
};

export async function measureLimits(memory: WebAssembly.Memory, effort: Effort): Promise<Limits> {
  const counts = Array.from({ length: CHAINS_MAX }, (_, i) => i + 1);
  const source = [...counts.map(chainsSource), READ_SOURCE].join('\n');
  const { instance } = await WebAssembly.instantiate(await compileAssembly('limits.ts', source), { env: { memory } });
  const exported = instance.exports as Record<string, (a: number, b?: number, c?: number) => number>;
  const steps = 20_000;
  const contestants = counts.map((chains) => {
    const run = exported[`chains${chains}`];
    if (!run) throw new Error(`chains${chains} is missing`);
    return { name: `${chains}`, work: steps * UNROLL * chains * 8, run: () => void run(steps, FACTOR, TERM) };
  });
  // Optimised code is used from a later call on, never within one (no on-stack replacement): many short calls, then time to compile.
  for (let i = 0; i < 20_000; i++) for (const chains of counts) exported[`chains${chains}`]?.(20, FACTOR, TERM);
  await setTimeout(300);
  const rates = await race(contestants, effort);
  const best = rates.reduce((a, b, i) => (b.best > (rates[a]?.best ?? 0) ? i : a), 0);
  const winner = contestants[best];
  const read = exported['read'];
  if (!winner || !read) throw new Error('the limits module lacks an export');
  return { read, peak: { chains: best + 1, work: winner.work, run: winner.run }, byChains: rates.map((r) => r.best) };
}
