/**
 * How fast INT8 is against BF16: products alone, and tokens a second of CPU time of a pod at 1 and 16 requests, with KV and rows to experts as computed and in INT8.
 * CPU time, of all of the process's threads, since it is the same on a machine that others use too; the pod that waits takes next to none. What quantising loses is
 * measured by int8-fidelity.ts.
 * @module
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createPod, type Pod, quantizeModel } from '../src/index.ts';
import { instantiateKernels, type Kernels, loadKernelModule, packedBytes } from '../src/model/kernels/kernels.ts';
import { machine, median, printTable, race, writeResults } from './harness.ts';
import { promptOf } from './prompts.ts';

const MODELS = { 'tiny-deepseek-v3': 'tiny-deepseek-v3', 'tiny-qwen3-moe': fileURLToPath(new URL('../test/models/tiny-qwen3-moe', import.meta.url)) } as const;
const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 96);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 7);
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 4_000);
const SHAPES = [
  { name: 'q_a of the shipped model', inDim: 192, outDim: 96 },
  { name: 'an expert’s gate and up', inDim: 192, outDim: 128 },
  { name: 'an expert’s down', inDim: 64, outDim: 192 },
  { name: '2048 → 2048', inDim: 2048, outDim: 2048 },
] as const;

// ---------------------------------------------------------------- products

async function products(): Promise<{ shape: string; rows: number; bf16: number; int8: number; ratio: number }[]> {
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 1024, shared: true });
  const kernels: Kernels = instantiateKernels(await loadKernelModule(), memory);
  const found: { shape: string; rows: number; bf16: number; int8: number; ratio: number }[] = [];
  for (const { name, inDim, outDim } of SHAPES)
    for (const rows of [1, 16]) {
      const [w, wide, x] = [1 << 20, (1 << 20) + packedBytes(outDim, inDim, 'int8'), 48 << 20];
      const [q, scales, y] = [x + rows * inDim * 4, x + rows * inDim * 8, x + rows * inDim * 8 + 4096];
      new Float32Array(memory.buffer, x, rows * inDim).forEach((_, index, all) => {
        all[index] = Math.sin(index);
      });
      const work = 2 * rows * inDim * outDim;
      const [bf16, int8] = await race(
        [
          { name: 'bf16', work, run: () => kernels.matmulBf16(y, outDim, x, inDim, rows, wide, inDim, outDim) },
          {
            name: 'int8',
            work,
            run: () => {
              kernels.quantizeRows(q, scales, x, inDim, rows, inDim);
              kernels.matmulInt8(y, outDim, q, scales, rows, w, inDim, outDim);
            },
          },
        ],
        { rounds: 5, slice_ms: 40 },
      );
      found.push({ shape: name, rows, bf16: (bf16?.best ?? 0) / 1e9, int8: (int8?.best ?? 0) / 1e9, ratio: int8?.ratio ?? 0 });
    }
  return found;
}

// ---------------------------------------------------------------- pods

function cpu_ms(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Tokens a second of CPU time. */
async function rateOf(pod: Pod, requests: number): Promise<number> {
  const start = cpu_ms();
  await Promise.all(Array.from({ length: requests }, (_, index) => pod.complete(promptOf(index), { max_tokens: TOKENS, temperature: 0, ignore_eos: true })));
  return (requests * TOKENS * 1000) / (cpu_ms() - start);
}

type Rates = {
  readonly requests: number;
  readonly bf16: number;
  readonly int8: number;
  readonly ratio: number;
  readonly all: number;
  readonly all_ratio: number;
};

/** `all`: KV and rows to experts and back in INT8 as well. */
async function rates(model: string, int8: string): Promise<Rates[]> {
  await using wide = await createPod({ model });
  await using narrow = await createPod({ model: int8 });
  await using narrowest = await createPod({ model: int8, kv_cache_dtype: 'int8', dispatch_dtype: 'int8', combine_dtype: 'int8' });
  const found: Rates[] = [];
  for (const requests of [1, 16]) {
    for (const pod of [wide, narrow, narrowest]) for (const warm = performance.now(); performance.now() - warm < WARM_MS / 4; ) await rateOf(pod, requests);
    const rounds: { bf16: number; int8: number; all: number }[] = [];
    for (let round = 0; round < ROUNDS; round++)
      rounds.push({ bf16: await rateOf(wide, requests), int8: await rateOf(narrow, requests), all: await rateOf(narrowest, requests) });
    const middle = (of: (one: { bf16: number; int8: number; all: number }) => number): number => median(rounds.map(of));
    found.push({
      requests,
      bf16: middle(({ bf16 }) => bf16),
      ...{ int8: middle((one) => one.int8), ratio: middle((one) => one.int8 / one.bf16) },
      ...{ all: middle((one) => one.all), all_ratio: middle((one) => one.all / one.bf16) },
    });
  }
  return found;
}

/** What the model writes itself, to calibrate on: what is lost does not matter here. */
async function ownText(model: string): Promise<string> {
  await using pod = await createPod({ model });
  const tales = await Promise.all(
    Array.from({ length: 24 }, (_, seed) => pod.complete('Once upon a time', { max_tokens: 200, min_tokens: 200, temperature: 1, seed })),
  );
  return tales.map(({ choices }) => choices[0]?.text ?? '').join('\n');
}

// ---------------------------------------------------------------- all

const folder = mkdtempSync(join(tmpdir(), 'minipod-int8-'));
const results: Record<string, unknown> = {};
try {
  const kernels = await products();
  printTable(
    `Products in INT8, rows quantised first, against BF16: GFLOP/s of one core (${machine()['cpu']})`,
    ['product', 'rows', 'BF16', 'INT8', 'ratio'],
    kernels.map(({ shape, rows, bf16, int8, ratio }) => [shape, String(rows), bf16.toFixed(1), int8.toFixed(1), ratio.toFixed(2)]),
  );
  results['products'] = kernels;
  for (const [name, model] of Object.entries(MODELS)) {
    const out = join(folder, name);
    await quantizeModel({ model, out, text: await ownText(model) });
    const speed = await rates(model, out);
    printTable(
      `${name}: tokens a second of CPU time, one NPU on one worker, ${TOKENS} tokens a request (medians of ${ROUNDS} paired rounds)`,
      ['requests', 'BF16', 'INT8', 'ratio', 'KV and rows too', 'ratio'],
      speed.map(({ requests, bf16, int8, ratio, all, all_ratio }) => [
        ...[String(requests), bf16.toFixed(0), int8.toFixed(0), ratio.toFixed(2), all.toFixed(0), all_ratio.toFixed(2)],
      ]),
    );
    results[name] = { speed };
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
writeResults('bench/results/int8.json', results);
