/**
 * How long a device takes for a step: for each operation the larger of its arithmetic and its memory traffic, the roofline of Williams, Waterman and
 * Patterson (CACM 52(4), 2009). It knows nothing of kernels' start-up, of overlap, or of uneven experts: enough to order events plausibly, not to predict a machine.
 * @module
 */
import type { ModelConfig } from '../model/config.ts';
import { gqaCellBytes, mlaCellBytes } from '../model/kernels/kernels.ts';
import { draftLayersOfRound, isMoeLayer, layersInMemory } from '../model/moe-layers.ts';
import type { Numerics, WireDtype } from '../protocol/numerics.ts';
import type { StepEntry } from '../protocol/steps.ts';

export type Device = {
  readonly flops_per_s: number;
  readonly memory_bytes_per_s: number;
  /** Between devices, one way. */
  readonly link_bytes_per_s: number;
  readonly link_latency_ns: number;
  /** Bytes of a weight, of a KV cell's element and of an activation on the wire, where the model or an option does not have them in INT8. */
  readonly element_bytes: number;
};

/** One die of an Ascend 910C: 400 TFLOPS in 16 bits and half of the chip's 3.2 TB/s; the SuperPod's links carry about 200 GB/s one way (DeepServe §2). */
export const ASCEND_910C_DIE: Device = {
  flops_per_s: 400e12,
  memory_bytes_per_s: 1.6e12,
  link_bytes_per_s: 200e9,
  link_latency_ns: 1_500,
  element_bytes: 2,
};

/**
 * A core of a laptop or a server under the shipped kernels, roughly: many rows at 40 GFLOPS, `memory.copy` at 10 GB/s, 20 µs until a copy that was asked for is
 * told of (measured on 2 cores, DESIGN.md).
 */
export const HOST_CORE: Device = { flops_per_s: 40e9, memory_bytes_per_s: 10e9, link_bytes_per_s: 10e9, link_latency_ns: 20_000, element_bytes: 4 };

/**
 * The network between machines: RoCE of 200 Gbit/s (DeepServe §2, its Gen1; it loads weights at 20 to 23 GB/s over it). The papers do not say its latency: some
 * microseconds, as RDMA cards have it.
 */
export const ROCE: Pick<Device, 'link_bytes_per_s' | 'link_latency_ns'> = { link_bytes_per_s: 25e9, link_latency_ns: 5_000 };

const NS_PER_S = 1e9;

/** What a step's time depends on. */
type StepShape = { readonly entries: readonly (Pick<StepEntry, 'start' | 'tokens' | 'samples'> & Partial<Pick<StepEntry, 'drafts' | 'foresees'>>)[] };

/** Of all layers. */
export const kvBlockBytes = (config: ModelConfig, block_size: number, device: Device, numerics: Numerics): number =>
  layersInMemory(config) * block_size * cellBytes(config, device, numerics);

/** Of one position's KV in one layer: in INT8 as the kernels have it, else as wide as the device's elements. */
function cellBytes({ attention }: ModelConfig, { element_bytes }: Device, { kv_cache_dtype = 'auto' }: Numerics): number {
  if (attention.kind === 'mla')
    return kv_cache_dtype === 'int8'
      ? mlaCellBytes(attention.kvLoraRank, attention.ropeDim, 'int8')
      : (attention.kvLoraRank + attention.ropeDim) * element_bytes;
  return attention.kvHeads * (kv_cache_dtype === 'int8' ? gqaCellBytes(attention.headDim, 'int8') : 2 * attention.headDim * element_bytes);
}

/** Of a row on its way to an expert or back. */
const wireRowBytes = (hidden: number, { element_bytes }: Device, dtype: WireDtype = 'auto'): number => (dtype === 'int8' ? hidden + 4 : hidden * element_bytes);

/** Of a weight in a product that is quantised where the checkpoint is. */
const weightBytes = ({ quantization }: ModelConfig, { element_bytes }: Device): number => (quantization === undefined ? element_bytes : 1);

/** Weights that one token passes in one layer's attention, those of `heads` heads of it. */
function attentionSizes(
  { attention, hiddenSize }: ModelConfig,
  heads: number,
): {
  readonly weights: number;
  readonly flops_per_position: number;
  /** Columns of a head's output. */
  readonly head: number;
} {
  if (attention.kind === 'gqa') {
    const { kvHeads, headDim } = attention;
    const weights = hiddenSize * headDim * (2 * heads + 2 * kvHeads);
    return { weights, flops_per_position: 4 * heads * headDim, head: headDim };
  }
  const { qLoraRank, kvLoraRank, nopeDim, ropeDim, vDim } = attention;
  const query = heads * (nopeDim + ropeDim);
  const down = qLoraRank === null ? hiddenSize * query : qLoraRank * (hiddenSize + query);
  // The absorbed form: keys' and values' up-projections act on queries and outputs.
  const absorbed = heads * kvLoraRank * (nopeDim + vDim);
  return {
    weights: down + hiddenSize * (kvLoraRank + ropeDim) + absorbed + heads * vDim * hiddenSize,
    flops_per_position: 2 * heads * (2 * kvLoraRank + ropeDim),
    head: vDim,
  };
}

/** `npus`: those over which a task executor's experts are spread evenly, `tp` of which are a DP group; `oproj` NPUs, missing: 1, split their output projection. */
export type Parallelism = { readonly npus: number; readonly tp: number; readonly oproj?: number | undefined; readonly split?: Split | undefined };

/** Those NPUs have experts only: so many others ask them, all as busy; so many of them have the shared expert, 0: those who ask have it themselves. */
export type Split = { readonly attention: number; readonly shared: number };

/** Nanoseconds of an operation that reads so many bytes. */
const operationOn =
  (device: Device) =>
  (flops: number, bytes: number): number =>
    Math.max(flops / device.flops_per_s, bytes / device.memory_bytes_per_s) * NS_PER_S;

/** Weights of a routed expert, or of one shared. */
const expertWeightsOf = ({ hiddenSize, moe }: ModelConfig): number => 3 * hiddenSize * moe.intermediateSize;

/** Nanoseconds that a routed expert takes for a batch of so many tokens. */
export function rooflineExpert(config: ModelConfig, device: Device): (tokens: number) => number {
  const weights = expertWeightsOf(config);
  const operation_ns = operationOn(device);
  return (tokens) => operation_ns(2 * tokens * weights, weights * weightBytes(config, device));
}

/** Nanoseconds of a step, and of the drafts that are computed behind it. */
export type StepTime = { readonly step_ns: number; readonly drafts_ns: number };

/** What a step of one NPU takes in all. */
export function rooflineStep(config: ModelConfig, parallelism: Parallelism, device: Device, numerics: Numerics = {}): (plan: StepShape) => number {
  const timesOf = rooflineTimes(config, parallelism, device, numerics);
  return (plan) => {
    const { step_ns, drafts_ns } = timesOf(plan);
    return step_ns + drafts_ns;
  };
}

/** What a step of one NPU takes; of the ranks of a group the first, which has most to do: all of them wait for it. */
export function rooflineTimes(
  config: ModelConfig,
  { npus, tp, oproj = 1, split }: Parallelism,
  device: Device,
  numerics: Numerics = {},
): (plan: StepShape) => StepTime {
  const { hiddenSize, vocabSize, moe, mlp, layers } = config;
  const share = (total: number): number => Math.ceil(total / tp);
  const { weights: attentionWeights, flops_per_position, head } = attentionSizes(config, share(config.heads));
  const expertWeights = expertWeightsOf(config);
  const operation_ns = operationOn(device);
  const move_ns = (bytes: number): number => device.link_latency_ns + (bytes / device.link_bytes_per_s) * NS_PER_S;
  const transfer_ns = (elements: number): number => move_ns(elements * device.element_bytes);
  const [weight_bytes, wide_bytes, cell_bytes] = [weightBytes(config, device), device.element_bytes, cellBytes(config, device, numerics)];
  const [there_bytes, back_bytes] = [numerics.dispatch_dtype, numerics.combine_dtype].map((dtype) => wireRowBytes(hiddenSize, device, dtype)) as [
    number,
    number,
  ];
  return ({ entries }) => {
    const all = rowsOf(entries, ({ tokens }) => tokens.length);
    let step_ns = head_ns(entries.reduce((sum, { samples, drafts = 0 }) => sum + (samples ? 1 + drafts : 0), 0));
    for (let layer = 0; layer < layers; layer++) step_ns += layer_ns(layer, all);
    let drafts_ns = 0;
    // Drafts: the first round goes through all rows whose next token is known, the others through one of each sequence.
    const foreseen = Math.max(-1, ...entries.map(({ foresees = -1 }) => foresees));
    for (let round = 0; round < foreseen || (round === 0 && foreseen === 0); round++) {
      const drafting = entries.filter(({ foresees = -1 }) => foresees > round);
      const rows = rowsOf(round === 0 ? entries.filter(({ foresees = -1 }) => foresees >= 0) : drafting, ({ tokens }) => (round === 0 ? tokens.length : 1));
      for (const layer of draftLayersOfRound(config, round)) {
        drafts_ns += operation_ns(4 * rows.rows * hiddenSize * hiddenSize, 2 * hiddenSize * hiddenSize * wide_bytes);
        drafts_ns += layer_ns(layer, rows);
      }
      if (drafting.length > 0) drafts_ns += head_ns(drafting.length);
    }
    const total_ns = Math.ceil(step_ns + drafts_ns);
    return { step_ns: total_ns - Math.floor(drafts_ns), drafts_ns: Math.floor(drafts_ns) };
  };

  /** Prepares so many rows for the sampler. */
  function head_ns(sampled: number): number {
    const gathered = tp > 1 ? transfer_ns(sampled * (vocabSize - share(vocabSize))) : 0;
    return operation_ns(2 * sampled * hiddenSize * share(vocabSize), hiddenSize * share(vocabSize) * wide_bytes) + gathered;
  }

  function layer_ns(layer: number, { rows, read, attended }: Rows): number {
    /** What the other ranks have computed of each of a table's rows. */
    const gather_ns = (width: number): number => (tp > 1 ? transfer_ns(rows * (width - share(width))) : 0);
    const own = share(rows);
    const pairs = own * moe.topK;
    const asked = split === undefined ? pairs : (pairs * split.attention) / npus;
    const experts = Math.min(Math.ceil(moe.experts / npus), Math.ceil(asked));
    // Rows of the shared expert that one NPU computes.
    const sharedRows = split === undefined || split.shared === 0 ? own : (own * split.attention) / split.shared;
    let total_ns = operation_ns(2 * rows * attentionWeights + attended * flops_per_position, attentionWeights * weight_bytes + read * cell_bytes);
    total_ns += gather_ns(config.heads * head) + gather_ns(hiddenSize);
    // Others are as busy: so an NPU projects its columns of its own rows, then of as many rows of each other one, and reads its part of the weights each time.
    if (oproj > 1) total_ns += transfer_ns(rows * config.heads * head) + transfer_ns(rows * (hiddenSize - Math.floor(hiddenSize / oproj)));
    if (moe.experts > 0 && isMoeLayer(config, layer)) {
      const shared = moe.sharedExperts * expertWeights;
      total_ns += operation_ns(2 * (asked * expertWeights + sharedRows * shared), (experts * expertWeights + shared) * weight_bytes);
      if (npus > 1 || split !== undefined) total_ns += move_ns(pairs * there_bytes) + move_ns(pairs * back_bytes);
      total_ns += gather_ns(hiddenSize);
    } else {
      const dense = 3 * hiddenSize * share(mlp.intermediateSize);
      total_ns += operation_ns(2 * rows * dense, dense * weight_bytes) + gather_ns(mlp.intermediateSize) + gather_ns(hiddenSize);
    }
    return total_ns;
  }
}

/** Rows of a step; positions that are read once for each sequence, and those that each of its rows attends to. */
type Rows = { readonly rows: number; readonly read: number; readonly attended: number };

function rowsOf<Entry extends StepShape['entries'][number]>(entries: readonly Entry[], countOf: (entry: Entry) => number): Rows {
  let [rows, read, attended] = [0, 0, 0];
  for (const entry of entries) {
    const [{ start }, count] = [entry, countOf(entry)];
    rows += count;
    read += start + count;
    attended += count * start + (count * (count + 1)) / 2;
  }
  return { rows, read, attended };
}
