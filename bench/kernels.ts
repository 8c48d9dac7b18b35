/**
 * Kernels against the core's peak and a plain read of memory, in one run. Ratios are what counts.
 *
 * @example
 * node bench/kernels.ts            # everything, writes bench/results/kernels.json
 * node bench/kernels.ts matmul     # one part
 * @module
 */
import {
  attentionScratchBytes,
  gqaLayerBytes,
  instantiateKernels,
  type Kernels,
  loadKernelModule,
  mlaLayerBytes,
  packedBytes,
  sampleScratchBytes,
} from '../src/model/kernels/kernels.ts';
import { SAMPLING_WORDS, writeSamplingParams } from '../src/model/kernels/sampling-params.ts';
import { type Contestant, type Effort, printTable, race, writeResults } from './harness.ts';
import { measureLimits } from './kernels-limits.ts';

const EFFORT: Effort = { rounds: 9, slice_ms: 12 };
const PAGES = 6000; // 375 MiB
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
const kernels: Kernels = instantiateKernels(await loadKernelModule(), memory);
const limits = await measureLimits(memory, EFFORT);

const HEAP = 65536;
let top = HEAP;
function room(bytes: number): number {
  const address = top;
  top = (top + bytes + 127) & ~127;
  if (top > PAGES * 65536) throw new RangeError('the bench memory is full');
  return address;
}
function floats(count: number): number {
  const address = room(count * 4);
  const view = new Float32Array(memory.buffer, address, count);
  for (let i = 0; i < count; i++) view[i] = ((i * 7919) % 1013) / 1013 - 0.5;
  return address;
}
/** BF16 values as a model has them: bits taken at random would be denormal now and then, which costs many times a multiply. */
function halves(count: number): number {
  const address = room(count * 2);
  const view = new Uint16Array(memory.buffer, address, count);
  for (let i = 0; i < count; i++) view[i] = 0x3c00 + ((i * 7919) % 509) + (i & 1) * 0x8000;
  return address;
}
/** Packed weights. */
function panels(dtype: 'f32' | 'bf16', outDim: number, inDim: number): number {
  const bytes = packedBytes(outDim, inDim, dtype);
  return dtype === 'f32' ? floats(bytes / 4) : halves(bytes / 2);
}
function words(values: number[]): number {
  const address = room(values.length * 4);
  new Uint32Array(memory.buffer, address, values.length).set(values);
  return address;
}

type Line = { name: string; gflops: number; ofPeak: number; ofRead?: number; goal: number | null };
const lines: Record<string, Line[]> = {};

/** Races one kernel with the peak, and with a read of `bytes` at `from` where memory is the limit. */
async function measure(part: string, contestant: Contestant, goal: number | null, source?: { from: number; bytes: number }): Promise<void> {
  const peak = { name: 'peak', work: limits.peak.work, run: limits.peak.run };
  const reader = source ? [{ name: 'read', work: source.bytes, run: () => void limits.read(source.from, source.bytes) }] : [];
  const [, kernel, read] = await race([peak, contestant, ...reader], EFFORT);
  if (!kernel) throw new Error('the race had no runner');
  const line: Line = { name: contestant.name, gflops: kernel.best / 1e9, ofPeak: kernel.ratio, goal };
  if (source && read) line.ofRead = (kernel.best / contestant.work) * (source.bytes / read.best);
  lines[part] ??= [];
  lines[part].push(line);
}

// ---------------------------------------------------------------- parts

async function matmul(): Promise<void> {
  for (const [inDim, outDim] of [
    [192, 96],
    [96, 288],
    [64, 192],
    [192, 512],
    [192, 2048],
    [2048, 2048],
  ] as const) {
    for (const dtype of ['f32', 'bf16'] as const) {
      for (const rows of [1, 2, 3, 4, 16, 64]) {
        top = HEAP;
        const [w, x, y] = [panels(dtype, outDim, inDim), floats(rows * inDim), room(rows * outDim * 4)];
        const kernel = dtype === 'f32' ? kernels.matmulF32 : kernels.matmulBf16;
        const goal = rows >= 16 ? 0.6 : rows === 1 ? (dtype === 'f32' ? 0.6 : 0.4) : null;
        const run = () => kernel(y, outDim, x, inDim, rows, w, inDim, outDim);
        await measure('matmul', { name: `${dtype} ${inDim}→${outDim} rows ${rows}`, work: 2 * rows * inDim * outDim, run }, goal);
      }
    }
  }
}

/** One row over 128 MiB of weights, four times the last cache. */
async function stream(): Promise<void> {
  for (const dtype of ['f32', 'bf16'] as const) {
    top = HEAP;
    const inDim = 2048;
    const bytes = 128 * 2 ** 20;
    const outDim = bytes / inDim / (dtype === 'f32' ? 4 : 2);
    const [w, x, y] = [panels(dtype, outDim, inDim), floats(inDim), room(outDim * 4)];
    const kernel = dtype === 'f32' ? kernels.matmulF32 : kernels.matmulBf16;
    const run = () => kernel(y, outDim, x, inDim, 1, w, inDim, outDim);
    await measure('stream', { name: `${dtype} ${inDim}→${outDim} rows 1`, work: 2 * inDim * outDim, run }, 0.7, { from: w, bytes });
  }
}

const LENGTH = 2048;
const BLOCK = 64;

function blockTable(layerBytes: number): number {
  const first = floats((LENGTH / BLOCK) * (layerBytes / 4));
  return words(Array.from({ length: LENGTH / BLOCK }, (_, b) => first + b * layerBytes));
}

async function attention(): Promise<void> {
  for (const [heads, latent, rope] of [
    [6, 64, 16],
    [16, 512, 64],
  ] as const) {
    for (const rows of [1, 16, 64]) {
      top = HEAP;
      const table = blockTable(mlaLayerBytes(BLOCK, latent, rope));
      const [q, out, scratch] = [floats(rows * heads * (latent + rope)), room(rows * heads * latent * 4), room(attentionScratchBytes(rows, heads))];
      const positions = words(Array.from({ length: rows }, () => LENGTH - 1));
      const [qStride, outStride] = [heads * (latent + rope), heads * latent];
      const run = () => kernels.mlaAttention(out, outStride, q, qStride, rows, heads, latent, rope, table, BLOCK, 0, positions, 0, 0.1, scratch);
      const work = rows * heads * LENGTH * (2 * latent + rope) * 2;
      await measure('attention', { name: `MLA ${heads} heads ${latent}+${rope} rows ${rows}`, work, run }, 0.6);
    }
  }
  for (const [heads, kvHeads, headDim] of [
    [6, 2, 32],
    [32, 4, 128],
  ] as const) {
    for (const rows of [1, 16, 64]) {
      top = HEAP;
      const table = blockTable(gqaLayerBytes(BLOCK, kvHeads, headDim));
      const width = heads * headDim;
      const [q, out, scratch] = [floats(rows * width), room(rows * width * 4), room(attentionScratchBytes(rows, heads))];
      const positions = words(Array.from({ length: rows }, () => LENGTH - 1));
      const run = () => kernels.gqaAttention(out, width, q, width, rows, heads, kvHeads, headDim, table, BLOCK, 0, positions, 0.1, scratch);
      await measure('attention', { name: `GQA ${heads}/${kvHeads} × ${headDim} rows ${rows}`, work: rows * heads * LENGTH * headDim * 4, run }, 0.6);
    }
  }
}

/** Rates in vocabulary entries a second; there is no peak to hold them against. */
async function sampling(): Promise<void> {
  const off = { seedLow: 1, seedHigh: 2, choice: 0, position: 3, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0 };
  const lists = { biasCount: 0, biasAddress: 0, outputCount: 0, outputAddress: 0, banCount: 0, banAddress: 0 };
  for (const n of [2048, 151936]) {
    for (const change of [
      { temperature: 0 },
      { temperature: 1 },
      { temperature: 0.8, topK: 50 },
      { temperature: 0.8, topP: 0.9 },
      { temperature: 0.8, minP: 0.05 },
    ]) {
      top = HEAP;
      const [logits, params, scratch] = [floats(n), room(SAMPLING_WORDS * 4), room(sampleScratchBytes(n))];
      const view = new Float32Array(memory.buffer, logits, n);
      for (let i = 0; i < n; i++) view[i] = 12 * (Math.abs(Math.sin(i * i)) - 0.5) + (i % 997 === 0 ? 8 : 0);
      writeSamplingParams(memory, params, { ...off, ...lists, ...change });
      await measure('sampling', { name: `${n} ${JSON.stringify(change)}`, work: n, run: () => void kernels.sampleRow(logits, n, params, scratch) }, null);
    }
  }
}

async function elementwise(): Promise<void> {
  top = HEAP;
  const [rows, dim] = [64, 512];
  const [x, y, w] = [floats(rows * dim * 2), floats(rows * dim * 2), floats(dim)];
  await measure(
    'elementwise',
    { name: `rmsNorm ${rows} × ${dim}`, work: 4 * rows * dim, run: () => kernels.rmsNorm(y, dim, x, dim, rows, dim, w, 1e-6) },
    null,
  );
  await measure('elementwise', { name: `siluMul ${rows} × ${dim}`, work: 4 * rows * dim, run: () => kernels.siluMul(y, dim, x, 2 * dim, rows, dim) }, null);
  await measure(
    'elementwise',
    { name: `packBf16 512 × 512 (values)`, work: 512 * 512, run: () => kernels.packBf16(y + 4 * 2 ** 20, x + 2 ** 20, 512, 512, 512) },
    null,
  );
}

// ---------------------------------------------------------------- report

const parts: Record<string, () => Promise<void>> = { matmul, stream, attention, elementwise, sampling };
const asked = process.argv.slice(2).filter((name) => name in parts);
for (const name of asked.length > 0 ? asked : Object.keys(parts)) await parts[name]?.();

const chains = limits.byChains.map((rate, i) => [`${i + 1}`, (rate / 1e9).toFixed(1)]);
printTable(`Peak: ${limits.peak.chains} chains of multiply and add`, ['chains', 'GFLOP/s'], chains);
for (const [part, measured] of Object.entries(lines)) {
  const rows = measured.map((l) => {
    const value = l.ofRead ?? l.ofPeak;
    const met = l.goal === null ? '' : value >= l.goal ? `≥ ${l.goal}` : `MISSED ${l.goal}`;
    return [l.name, l.gflops.toFixed(2), l.ofPeak.toFixed(2), l.ofRead?.toFixed(2) ?? '', met];
  });
  printTable(part, ['kernel', 'G/s', 'of peak', 'of read', 'goal'], rows);
}
if (asked.length === 0) writeResults('bench/results/kernels.json', { peakByChains: limits.byChains, parts: lines });
