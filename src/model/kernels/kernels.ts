/**
 * The host side of the kernels: AssemblyScript compiled to WASM SIMD over one imported shared memory.
 *
 * Every address is a byte offset into the segment; every stride is in floats unless its name says bytes; every table of ids, indices or positions is
 * u32. Activations, KV and everything else that is computed are f32. Kernels allocate nothing and keep no state but where the stop word lies; what they
 * need is passed by address.
 * @module
 */
import { readFile } from 'node:fs/promises';
import type { Attention } from './attention-kernels.ts';

/** A byte offset into the segment. */
export type Address = number;

type Linear = {
  /** y[r, o] = Σₖ x[r, k] W[o, k]; w holds packed BF16 panels. Writes exactly outDim floats a row. */
  matmulBf16(y: Address, yStride: number, x: Address, xStride: number, rows: number, w: Address, inDim: number, outDim: number): void;
  /** The same with packed F32 panels. */
  matmulF32(y: Address, yStride: number, x: Address, xStride: number, rows: number, w: Address, inDim: number, outDim: number): void;
  /** Per head h: y[r, h] = W[h] x[r, h], W[h] packed at w + h * wHeadBytes. */
  matmulHeadsBf16(
    y: Address,
    yRowStride: number,
    yHeadStride: number,
    x: Address,
    xRowStride: number,
    xHeadStride: number,
    rows: number,
    heads: number,
    w: Address,
    wHeadBytes: number,
    inDim: number,
    outDim: number,
  ): void;
  /** The same with packed F32 panels. */
  matmulHeadsF32(
    y: Address,
    yRowStride: number,
    yHeadStride: number,
    x: Address,
    xRowStride: number,
    xHeadStride: number,
    rows: number,
    heads: number,
    w: Address,
    wHeadBytes: number,
    inDim: number,
    outDim: number,
  ): void;
  /** Packs raw BF16 [outDim, inDim] (row stride in elements, any alignment) into panels; dst holds packedBytes(outDim, inDim, 'bf16'). */
  packBf16(dst: Address, src: Address, outDim: number, inDim: number, srcRowStride: number): void;
  packF32(dst: Address, src: Address, outDim: number, inDim: number, srcRowStride: number): void;
  /** Packs from a transposed source: element (o, k) at src[k * srcRowStride + o]. */
  packBf16Transposed(dst: Address, src: Address, outDim: number, inDim: number, srcRowStride: number): void;
  packF32Transposed(dst: Address, src: Address, outDim: number, inDim: number, srcRowStride: number): void;
  /** dst[i] = f32(src[i]); src any alignment. */
  widenBf16(dst: Address, src: Address, count: number): void;
  widenF16(dst: Address, src: Address, count: number): void;
};

/** INT8 products (xDeepServe §4.7): one scale an output channel, one a token, sums exact in 32 bits. */
type Int8 = {
  /** q i16 [rows, dim], scales f32 [rows]: of the whole row, as quantizeInt8 has them. */
  quantizeRows(q: Address, scales: Address, x: Address, xStride: number, rows: number, dim: number): void;
  /** Packs raw INT8 [outDim, inDim] (row stride in bytes) into panels; the scales of the outputs, f32, belong behind the last panel: packedBytes(outDim, inDim, 'int8') in all. inDim is even. */
  packInt8(dst: Address, src: Address, outDim: number, inDim: number, srcRowStride: number): void;
  /** y[r, o] = (f32(Σₖ q[r, k] W[o, k]) · scales[r]) · scale of o. */
  matmulInt8(y: Address, yStride: number, q: Address, scales: Address, rows: number, w: Address, inDim: number, outDim: number): void;
  /** Per head h: y[r, h] = W[h] x[r], of the same rows for all heads. */
  matmulHeadsInt8(
    y: Address,
    yRowStride: number,
    yHeadStride: number,
    q: Address,
    scales: Address,
    rows: number,
    heads: number,
    w: Address,
    wHeadBytes: number,
    inDim: number,
    outDim: number,
  ): void;
};

type Elementwise = {
  /** y = x / sqrt(mean(x²) + eps) * weight per row; weight F32 [dim]; y may be x. */
  rmsNorm(y: Address, yStride: number, x: Address, xStride: number, rows: number, dim: number, weight: Address, eps: number): void;
  /** The same in place on each head of each row. */
  rmsNormHeads(x: Address, rowStride: number, headStride: number, heads: number, rows: number, dim: number, weight: Address, eps: number): void;
  /** y = silu(gate) * up; a row of gateUp is [gate (inter) | up (inter)]; silu(x) = x / (1 + exp(-x)); y must not overlap gateUp. */
  siluMul(y: Address, yStride: number, gateUp: Address, gateUpStride: number, rows: number, inter: number): void;
  /** x[i] += y[i] */
  addInPlace(x: Address, y: Address, count: number): void;
  /** dst row r = table row ids[r], widened from BF16. */
  embedBf16(dst: Address, dstStride: number, table: Address, ids: Address, rows: number, dim: number): void;
  embedF32(dst: Address, dstStride: number, table: Address, ids: Address, rows: number, dim: number): void;
  /** The kernels' own exp and log over `count` floats. */
  expRow(y: Address, x: Address, count: number): void;
  logRow(y: Address, x: Address, count: number): void;
  /** As memory.copy: the two may overlap. */
  copyBytes(dst: Address, src: Address, n: number): void;
  fillBytes(dst: Address, value: number, n: number): void;
};

type Experts = {
  /**
   * DeepSeek-V3: choose by sigmoid(logit) + bias among the best topkGroup of nGroup groups. experts u32 [rows, topK] ascending, weights f32 [rows, topK].
   * `normalise` is 0 or 1. scratch: gateScratchBytes(nExperts).
   */
  gateSigmoid(
    experts: Address,
    weights: Address,
    logits: Address,
    rows: number,
    nExperts: number,
    bias: Address,
    nGroup: number,
    topkGroup: number,
    topK: number,
    normalise: number,
    scalingFactor: number,
    scratch: Address,
  ): void;
  /** Qwen3: choose by softmax over all experts. scratch: gateScratchBytes(nExperts). */
  gateSoftmax(experts: Address, weights: Address, logits: Address, rows: number, nExperts: number, topK: number, normalise: number, scratch: Address): void;
  /** dst row i = src row indices[i]. */
  gatherRows(dst: Address, src: Address, indices: Address, count: number, rowBytes: number): void;
  /** x[r] += Σₛ weights[r, s] row(rowIndices[r, s]), s ascending, + shared[r] if sharedBase is not 0; rows of rowsBase are dim floats. */
  combineRows(
    x: Address,
    xStride: number,
    rowsBase: Address,
    rowIndices: Address,
    weights: Address,
    topK: number,
    sharedBase: Address,
    sharedStride: number,
    rows: number,
    dim: number,
  ): void;
  /**
   * combineRows from rows that lie anywhere, as where peers left them: row(r, s) at rowAddresses[r, s]. The same order of operations, so the same bits.
   * For XCCL's combine (xDeepServe §3.2).
   */
  combineRowsAt(
    x: Address,
    xStride: number,
    rowAddresses: Address,
    weights: Address,
    topK: number,
    shared: Address,
    sharedStride: number,
    rows: number,
    dim: number,
  ): void;
  /** counts[experts[i]] += 1 for n assignments. */
  countExperts(counts: Address, experts: Address, n: number): void;
  /**
   * Sorts what the gate chose for the rows from `first` on by (NPU, slot, token), slots from `begin` (of an NPU the first) on and round, as ExpertBatches does. map: u32 [nExperts + 1] where an expert's replicas
   * begin, [slots] replicas, [slots] each slot's expert; starts: scratch u32 [slots]. Writes segments u32 [slots that have any][2], (slot << 16 | expert,
   * pairs); pairRows u32 [pairs], each pair's token; rowIndices u32 [rows, topK], each pair's place; shares u32 [slots / each][4], (first segment, segments,
   * first pair, pairs).
   */
  sortPairs(
    experts: Address,
    first: number,
    rows: number,
    topK: number,
    spread: number,
    map: Address,
    nExperts: number,
    slots: number,
    each: number,
    begin: number,
    starts: Address,
    segments: Address,
    pairRows: Address,
    rowIndices: Address,
    shares: Address,
  ): void;
};

/** Calls that were captured and are launched by one (program.ts). */
type Programs = {
  /** Runs `bytes` of instructions. Traps at an opcode that is none. */
  runProgram(program: Address, bytes: number): void;
  /**
   * Each slot's program on its rows of one share: y, x and the number of rows are put into the three words at `variables` for it.
   * programs: u32 [own slots][2], address and bytes; traps where the address is 0.
   */
  runExperts(
    share: Address,
    segments: Address,
    pairRows: Address,
    rows: Address,
    rowBytes: number,
    gathered: Address,
    replies: Address,
    programs: Address,
    variables: Address,
  ): void;
};

type Sampling = {
  /** Index of the largest, ties to the lowest. */
  argmaxRow(logits: Address, n: number): number;
  /** 1 if no value is NaN or infinite, else 0. */
  allFinite(x: Address, count: number): number;
  /** max + log(Σ exp(x - max)) */
  logSumExp(logits: Address, n: number): number;
  /** The min(k, n) best by (value descending, id ascending): outIds u32, outValues f32. */
  topLogits(outIds: Address, outValues: Address, logits: Address, n: number, k: number): void;
  /** A token drawn under `params` (sampling-params.ts); logits are left as they are. scratch: sampleScratchBytes(n). */
  sampleRow(logits: Address, n: number, params: Address, scratch: Address): number;
  /** Four words of Philox4x32-10 at dst. */
  philoxWords(dst: Address, c0: number, c1: number, c2: number, c3: number, k0: number, k1: number): void;
};

/** Narrow forms in which rows may travel (xDeepServe §3.2, dispatch step 2). Wire rows lie end to end, at any alignment; `rows` and `dim` may be 0. */
type Wire = {
  /**
   * INT8 with one scale a row: scale = max |x| / 127 in its 16 upper bits, q = round(x / scale), half to even, in −127..127. q i8 [rows, dim], scales f32 [rows].
   * What comes back differs by half a scale at most, and comes back as it is if it goes through this again: q × scale is exact. A row of zeros has scale 0. A row with NaN or infinity has scale NaN, and
   * comes back as NaN. No other scale is below 2⁻¹²⁶, as a denormal one could not hold the bound.
   */
  quantizeInt8(q: Address, scales: Address, x: Address, xStride: number, rows: number, dim: number): void;
  /** y = q × scale */
  dequantizeInt8(y: Address, yStride: number, q: Address, scales: Address, rows: number, dim: number): void;
  /** y = BF16(x), to nearest, half to even; beyond the largest BF16 infinity; NaN stays NaN. y u16 [rows, dim]. */
  packRowsBf16(y: Address, x: Address, xStride: number, rows: number, dim: number): void;
  /** y = f32(x), exact; x u16 [rows, dim]. */
  unpackRowsBf16(y: Address, yStride: number, x: Address, rows: number, dim: number): void;
};

/** For blocks that travel (xDeepServe §5.1, DistFlow). */
type Proof = {
  /** 32 bits over `bytes` (a multiple of 4, a few hundred Ki at most) from `address` (the same), beginning with `seed`. The result is signed; checksum.ts in flowserve/distflow/ is the same in JavaScript. */
  checksum(seed: number, address: Address, bytes: number): number;
  /** Copies, and sums what it has copied: each word is loaded once for both. The two do not overlap. */
  copyChecksum(seed: number, dst: Address, src: Address, bytes: number): number;
  /** The same of memory that is looked at again and again: twice as fast, for faults of memory. */
  restingSum(seed: number, address: Address, bytes: number): number;
};

type Stopping = {
  /**
   * Where the stop word of this instance's thread lies: a multiple of 4 in the segment that the kernels are instantiated over (the control page, which
   * every segment mirrors, has it at `stopWordOffset(thread)`). 0: none, which is how an instance begins. Traps at once on what cannot be read.
   *
   * "Workers poll a stop word in every loop, kernels between tiles" (DESIGN): a thread cannot be ended from outside, so a worker that is told to stop
   * must leave a kernel by itself, within 50 ms however large the matrix. Once the word is 1, a kernel ends between two tiles with a RuntimeError
   * ("unreachable"), what it wrote half done: the caller looks at the stop word, and gives the step up. The instance can be called again.
   * Not polled, as they take under a millisecond: argmaxRow, allFinite, logSumExp, countExperts, sortPairs, philoxWords, checksum,
   * copyChecksum, restingSum.
   */
  setStopWord(address: Address): void;
};

/** All exports of the kernel module. */
export type Kernels = Attention & Linear & Int8 & Elementwise & Experts & Programs & Sampling & Wire & Proof & Stopping;

/** Names of the exports, which scripts/build-kernels.ts holds against the binary. */
export const KERNEL_NAMES = [
  ...['mlaAttention', 'gqaAttention', 'mlaStore', 'gqaStore', 'ropeInterleaved', 'ropeHalves'],
  ...['mlaAttentionSpans', 'gqaAttentionSpans', 'mlaStoreSpans', 'gqaStoreSpans'],
  ...['mlaAttentionSpansInt8', 'gqaAttentionSpansInt8', 'mlaStoreSpansInt8', 'gqaStoreSpansInt8'],
  ...['matmulBf16', 'matmulF32', 'matmulHeadsBf16', 'matmulHeadsF32'],
  ...['packBf16', 'packF32', 'packBf16Transposed', 'packF32Transposed', 'widenBf16', 'widenF16'],
  ...['quantizeRows', 'packInt8', 'matmulInt8', 'matmulHeadsInt8'],
  ...['rmsNorm', 'rmsNormHeads', 'siluMul', 'addInPlace', 'embedBf16', 'embedF32', 'expRow', 'logRow', 'copyBytes', 'fillBytes'],
  ...['gateSigmoid', 'gateSoftmax', 'gatherRows', 'combineRows', 'combineRowsAt', 'countExperts', 'sortPairs'],
  ...['runProgram', 'runExperts'],
  ...['argmaxRow', 'allFinite', 'logSumExp', 'topLogits', 'sampleRow', 'philoxWords'],
  ...['quantizeInt8', 'dequantizeInt8', 'packRowsBf16', 'unpackRowsBf16'],
  ...['checksum', 'copyChecksum', 'restingSum'],
  ...['setStopWord'],
] as const satisfies readonly (keyof Kernels)[];

/** Compiles kernels.wasm, which lies beside this file. A compiled module passes to workers by postMessage. */
export async function loadKernelModule(): Promise<WebAssembly.Module> {
  return WebAssembly.compile(await readFile(new URL('./kernels.wasm', import.meta.url)));
}

/** The kernels over one segment. Instantiating writes nothing into the memory: the module has no data and no start section. */
export function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): Kernels {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as Kernels;
}

// ---------------------------------------------------------------- sizes

/** Outputs in a packed panel. */
export const PANEL = 16;

/** Positions in a softmax tile; KV block sizes are multiples of it. */
export const TILE = 16;

/** Bytes of a weight in a panel. */
export const WEIGHT_BYTES = { bf16: 2, f32: 4, int8: 1 } as const;

/** Bytes of a packed [outDim, inDim] weight: out is padded to whole panels; INT8 has its scales behind them. */
export function packedBytes(outDim: number, inDim: number, format: keyof typeof WEIGHT_BYTES): number {
  return panelBytes(outDim, inDim, format) + (format === 'int8' ? Math.ceil(outDim / PANEL) * PANEL * 4 : 0);
}

/** Of its panels alone. */
export const panelBytes = (outDim: number, inDim: number, format: keyof typeof WEIGHT_BYTES): number =>
  Math.ceil(outDim / PANEL) * PANEL * inDim * WEIGHT_BYTES[format];

/** Inputs of an INT8 product whose sum cannot leave 32 bits: activations are in −127..127, weights in −128..127. */
export const INT8_INPUTS_MAX = Math.floor((2 ** 31 - 1) / (127 * 128));

/** Scratch of mlaAttention and gqaAttention: the scores of a batch of 8 queries, and a record for each query. */
export function attentionScratchBytes(rows: number, heads: number): number {
  return 544 + 20 * rows * heads;
}

/** Scratch of gateSigmoid and gateSoftmax. */
export function gateScratchBytes(nExperts: number): number {
  return 20 * nExperts;
}

/** Scratch of sampleRow: a copy of the row, and a selection as long. */
export function sampleScratchBytes(n: number): number {
  return 12 * n + 128;
}

/** What KV cells are kept as: all in float32; or latents, keys and values in INT8 with scales, MLA's rope keys in BF16 (assembly/kv-int8.ts). */
export type KvFormat = 'f32' | 'int8';

/** Bytes of a position. */
export const mlaCellBytes = (latent: number, rope: number, format: KvFormat = 'f32'): number =>
  format === 'int8' ? latent + 2 * rope + 4 : (latent + rope) * 4;

/** Bytes of a position of one head. */
export const gqaCellBytes = (headDim: number, format: KvFormat = 'f32'): number => (format === 'int8' ? 2 * headDim + 8 : 2 * headDim * 4);

/** Bytes of one layer of a KV block. `blockSize` in positions. */
export const mlaLayerBytes = (blockSize: number, latent: number, rope: number, format: KvFormat = 'f32'): number =>
  blockSize * mlaCellBytes(latent, rope, format);

/** Bytes of one layer of a KV block. `blockSize` in positions. */
export const gqaLayerBytes = (blockSize: number, kvHeads: number, headDim: number, format: KvFormat = 'f32'): number =>
  blockSize * kvHeads * gqaCellBytes(headDim, format);

/** A tile of cells in float32: before the scratch of attention that reads INT8. `width`: floats of a cell, of one head. */
export const kvTileBytes = (width: number, format: KvFormat): number => (format === 'int8' ? TILE * width * 4 : 0);
