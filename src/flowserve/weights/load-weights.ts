/**
 * Brings a checkpoint's weights straight into global memory, each part into the HBM region of the NPU that owns it.
 * What NPUs hold alike is read and packed once for each rank of tensor parallelism, and then copied from HBM to HBM, as a fork from a running NPU would be
 * (DeepServe §6).
 * @module
 */

import type { ExpertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Checkpoint } from '../../model/checkpoint.ts';
import { type Kernels, PANEL, panelBytes, WEIGHT_BYTES } from '../../model/kernels/kernels.ts';
import { ropeTable, ropeTableLength } from '../../model/kernels/rope-table.ts';
import { DTYPE_BYTES, type StoredTensor } from '../../model/safetensors.ts';
import type { LoadedPart, StoredTensors } from '../../model/stored-tensors.ts';
import { assert, invariantBroken } from '../../protocol/errors.ts';
import { nativeMapOf } from '../experts/expert-routing.ts';
import { placeOfSlot, writeSlot } from '../experts/expert-slots.ts';
import type { Range } from '../forward/tensor-share.ts';
import type { ExpertNpuLayout } from '../layouts/expert-layout.ts';
import type { MtpWeights } from '../layouts/mtp-layout.ts';
import type { Linear, MlpWeights, NpuLayout, Vector, WeightFormat } from '../layouts/npu-layout.ts';
import { attentionLayouts } from '../layouts/step-layout.ts';
import type { WeightPiece } from './replicated-weights.ts';
import { RestingWeights, sumsOf } from './resting-weights.ts';
import { sumOfWeights } from './slot-weights.ts';
import type { StoredExpert } from './stored-experts.ts';

/** Rows `from`…`from + count` of a stored matrix: of its outputs. */
type Rows = { readonly part: LoadedPart; readonly from: number; readonly count: number };
/** Bytes of a tensor, or of two of one shape, that were read, `of` so many that they have. */
type Loaded = { readonly tensor: string; readonly bytes: number; readonly of: number };

/** Where raw bytes of tensors wait. */
type Staging = Pick<NpuLayout, 'staging'>;

const packOf = (kernels: Kernels, format: WeightFormat): Kernels['packBf16'] =>
  format === 'bf16' ? kernels.packBf16 : format === 'int8' ? kernels.packInt8 : kernels.packF32;

/** Where weights come from. */
type Source = StoredTensors & Pick<Checkpoint, 'config'>;

/** By slot. */
const slotsOfLayer = (layout: NpuLayout | ExpertNpuLayout, layer: number): readonly MlpWeights[] =>
  (layout.kind === 'experts' ? layout.layers[layer] : layout.layers[layer]?.moe)?.slots ?? [];

/** They have the same weights, but for experts. */
const isAlike = (a: NpuLayout, b: NpuLayout): boolean =>
  a.share.rank === b.share.rank &&
  a.share.tp === b.share.tp &&
  (a.sharedNpu === null) === (b.sharedNpu === null) &&
  a.split.projection.first === b.split.projection.first &&
  a.split.projection.count === b.split.projection.count;

export class WeightLoader {
  readonly #checkpoint: Source;
  readonly #space: AddressSpace;
  readonly #kernelsOf: (segment: number) => Kernels;
  readonly #parts: ReadonlyMap<string, LoadedPart>;

  constructor(checkpoint: Source, space: AddressSpace, kernelsOf: (segment: number) => Kernels) {
    this.#checkpoint = checkpoint;
    this.#space = space;
    this.#kernelsOf = kernelsOf;
    this.#parts = new Map(checkpoint.parts.map((part) => [part.name, part]));
  }

  /**
   * Loads these NPUs, and into their slots what the maps of their groups say. Yields between tensors so that a caller can report progress; each tensor's bytes
   * once, though more than one NPU has them. `holds`: whether an NPU has more than experts now.
   */
  *load(
    layouts: readonly (NpuLayout | ExpertNpuLayout)[],
    mapOf: (npu: number) => ExpertMap = (npu) => this.#nativeMapOf(layouts, npu),
    holds: (npu: number) => boolean = () => true,
  ): Generator<{ readonly tensor: string; readonly bytes: number }> {
    assert(layouts.length > 0, 'a pod has at least one NPU');
    const told = new Map<string, number>();
    for (const { tensor, bytes, of } of this.#loadAll(layouts, mapOf, holds)) {
      const before = told.get(tensor) ?? 0;
      const news = Math.min(bytes, of - before);
      told.set(tensor, before + news);
      yield { tensor, bytes: news };
    }
  }

  *#loadAll(layouts: readonly (NpuLayout | ExpertNpuLayout)[], mapOf: (npu: number) => ExpertMap, holds: (npu: number) => boolean): Generator<Loaded> {
    // Asked of all before any is touched: who asks memory itself finds nothing of it afterwards.
    const holding = attentionLayouts(layouts).filter(({ npu }) => holds(npu));
    for (const layout of layouts) {
      const sums = sumsOf(layout);
      this.#space.bytesAt(sums.address, sums.bytes).fill(0);
      if (layout.kind === 'experts') {
        yield* this.#loadSlots(layout, mapOf(layout.npu));
        for (const [layer, weights] of layout.layers.entries())
          if (weights?.shared != null) yield* this.#loadMlp(layout, weights.shared, `model.layers.${layer}.mlp.shared_experts`);
        this.#takeSums(layout);
        continue;
      }
      const alike = holding.find((other) => isAlike(other, layout));
      if (alike === layout) {
        yield* this.#loadShare(layout);
        this.#takeSums(layout);
      } else if (alike !== undefined && holding.includes(layout)) this.#copyReplicated(alike, layout);
      // The shared expert is among what they have alike.
      yield* this.#loadSlots(layout, mapOf(layout.npu));
    }
  }

  /** All but experts. */
  *#loadShare(layout: NpuLayout): Generator<Loaded> {
    yield this.#loadEmbedding(layout);
    for (let layer = 0; layer < layout.layers.length; layer++) yield* this.#loadLayer(layout, layer);
    for (const [index, weights] of layout.mtp.entries())
      yield* this.#loadMtp(layout, weights, `model.layers.${layout.layers.length - layout.mtp.length + index}`);
    yield this.#loadVector(layout, layout.finalNorm, 'model.norm.weight');
    const head = this.#checkpoint.config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight';
    yield this.#loadLinear(layout, layout.head, [this.#rows(head, layout.split.vocab)]);
    this.#writeRopeTable(layout);
  }

  #part(name: string): LoadedPart {
    const part = this.#parts.get(name);
    assert(part, `the checkpoint was checked and has no ${name}`);
    return part;
  }

  #whole(name: string): Rows {
    const part = this.#part(name);
    return { part, from: 0, count: part.shape[0] ?? 0 };
  }

  /** Of as many rows as are laid out, from those of a share on. */
  #rows(name: string, { first, count }: Range): Rows {
    return { part: this.#part(name), from: first, count };
  }

  *#loadLayer(layout: NpuLayout, layer: number): Generator<Loaded> {
    const { inputNorm, attention, postNorm, mlp, moe } = layout.layers[layer] as NpuLayout['layers'][number];
    const { heads, hidden, projection, inner } = layout.split;
    const prefix = `model.layers.${layer}`;
    const name = (weight: string): string => `${prefix}.self_attn.${weight}.weight`;
    yield this.#loadVector(layout, inputNorm, `${prefix}.input_layernorm.weight`);
    yield this.#loadVector(layout, postNorm, `${prefix}.post_attention_layernorm.weight`);
    if (attention.kind === 'gqa') {
      yield this.#loadLinear(layout, attention.q, [this.#rows(name('q_proj'), { first: heads.first * attention.qNorm.length, count: attention.q.outDim })]);
      yield this.#loadLinear(layout, attention.k, [this.#whole(name('k_proj'))]);
      yield this.#loadLinear(layout, attention.v, [this.#whole(name('v_proj'))]);
      yield this.#loadLinear(layout, attention.o, [this.#rows(name('o_proj'), projection)]);
      yield this.#loadVector(layout, attention.qNorm, name('q_norm'));
      yield this.#loadVector(layout, attention.kNorm, name('k_norm'));
    } else {
      const { qA, qANorm, qNope, qRope, kvA, kvANorm, absorb, expand, o } = attention;
      if (qA !== null && qANorm !== null) {
        yield this.#loadLinear(layout, qA, [this.#whole(name('q_a_proj'))]);
        yield this.#loadVector(layout, qANorm, name('q_a_layernorm'));
      }
      yield this.#loadHeads(layout, name(qA === null ? 'q_proj' : 'q_b_proj'), [
        { linear: qNope, transposed: false },
        { linear: qRope, transposed: false },
      ]);
      yield this.#loadLinear(layout, kvA, [this.#whole(name('kv_a_proj_with_mqa'))]);
      yield this.#loadVector(layout, kvANorm, name('kv_a_layernorm'));
      yield this.#loadHeads(layout, name('kv_b_proj'), [
        { linear: absorb, transposed: true },
        { linear: expand, transposed: false },
      ]);
      yield this.#loadLinear(layout, o, [this.#rows(name('o_proj'), projection)]);
    }
    if (mlp !== null) yield* this.#loadMlp(layout, mlp, `${prefix}.mlp`, inner, hidden);
    if (moe === null) return;
    yield this.#loadLinear(layout, moe.router, [this.#whole(`${prefix}.mlp.gate.weight`)]);
    if (moe.bias !== null) yield this.#loadVector(layout, moe.bias, `${prefix}.mlp.gate.e_score_correction_bias`);
    if (moe.shared !== null) yield* this.#loadMlp(layout, moe.shared, `${prefix}.mlp.shared_experts`);
  }

  *#loadMtp(layout: NpuLayout, { enorm, hnorm, project, norm }: MtpWeights, prefix: string): Generator<Loaded> {
    yield this.#loadVector(layout, enorm, `${prefix}.enorm.weight`);
    yield this.#loadVector(layout, hnorm, `${prefix}.hnorm.weight`);
    yield this.#loadLinear(layout, project, [this.#whole(`${prefix}.eh_proj.weight`)]);
    yield this.#loadVector(layout, norm, `${prefix}.shared_head.norm.weight`);
  }

  /** Loads one expert to where there is room for what the slot holds. */
  *loadExpert(layout: NpuLayout | ExpertNpuLayout, { layer, expert, slot, to }: StoredExpert): Generator<unknown> {
    const weights = slotsOfLayer(layout, layer)[slot];
    assert(weights, `NPU ${layout.npu} has no slot ${slot} in layer ${layer}`);
    const by = to - placeOfSlot(layout.expertSlots, layer, slot).address;
    const moved = (linear: Linear): Linear => ({ ...linear, address: linear.address + by });
    yield* this.#loadMlp(layout, { gateUp: moved(weights.gateUp), down: moved(weights.down) }, `model.layers.${layer}.mlp.experts.${expert}`);
  }

  *#loadSlots(layout: NpuLayout | ExpertNpuLayout, { expertOfSlot }: ExpertMap): Generator<Loaded> {
    const { expertSlots } = layout;
    if (expertSlots.rank < 0) return;
    const words = this.#space.wordsOf(layout.base);
    const layers = expertSlots.tables.flatMap((table, layer) => (table === null ? [] : [layer]));
    for (const [index, layer] of layers.entries())
      for (const [slot, weights] of slotsOfLayer(layout, layer).entries()) {
        const expert = expertOfSlot[index * expertSlots.total + expertSlots.rank * expertSlots.each + slot] as number;
        const { address, bytes } = placeOfSlot(expertSlots, layer, slot);
        if (expert >= 0) yield* this.#loadMlp(layout, weights, `model.layers.${layer}.mlp.experts.${expert}`);
        const sum = expert >= 0 ? sumOfWeights(this.#sum, address, bytes) : 0;
        writeSlot(words, expertSlots, layer, slot, expert, 0, sum);
      }
  }

  readonly #sum = (seed: number, address: number, bytes: number): number => this.#kernels(address).checksum(seed, offsetOf(address), bytes);

  #takeSums(layout: NpuLayout | ExpertNpuLayout): void {
    const rest = (seed: number, address: number, bytes: number): number => this.#kernels(address).restingSum(seed, offsetOf(address), bytes);
    new RestingWeights(layout, this.#space, { sum: this.#sum, rest }).take();
  }

  #nativeMapOf(layouts: readonly (NpuLayout | ExpertNpuLayout)[], npu: number): ExpertMap {
    const layout = layouts.find((other) => other.npu === npu);
    assert(layout, `NPU ${npu} is not to be loaded`);
    return nativeMapOf(this.#checkpoint.config, layout.expertSlots);
  }

  *#loadMlp(
    layout: Staging,
    { gateUp, down }: MlpWeights,
    prefix: string,
    inner: Range = { first: 0, count: gateUp.outDim / 2 },
    columns: Range = { first: 0, count: down.outDim },
  ): Generator<Loaded> {
    yield this.#loadLinear(layout, gateUp, [this.#rows(`${prefix}.gate_proj.weight`, inner), this.#rows(`${prefix}.up_proj.weight`, inner)]);
    yield this.#loadLinear(layout, down, [this.#rows(`${prefix}.down_proj.weight`, columns)]);
  }

  #loadEmbedding(layout: NpuLayout): Loaded {
    const { part } = this.#whole('model.embed_tokens.weight');
    const { address, format } = layout.embedding;
    if (part.tensor.dtype !== 'F16') this.#checkpoint.readInto(part.tensor, this.#space.bytesAt(address, part.tensor.bytes));
    else
      this.#widenInto(
        layout,
        address,
        part.tensor,
        0,
        part.shape.reduce((product, size) => product * size, 1),
      );
    assert(format === 'bf16' || part.tensor.dtype !== 'BF16', 'an embedding in BF16 is kept so');
    return { tensor: part.name, bytes: part.tensor.bytes, of: part.tensor.bytes };
  }

  /** A vector is kept as F32. */
  #loadVector(layout: NpuLayout, vector: Vector, name: string): Loaded {
    const part = this.#part(name);
    assert(part.shape[0] === vector.length, `${name} has ${part.shape[0]} elements, laid out for ${vector.length}`);
    this.#widenInto(layout, vector.address, part.tensor, 0, vector.length);
    return { tensor: name, bytes: part.tensor.bytes, of: part.tensor.bytes };
  }

  /** Packs matrices below one another as one, a few panels at a time through the staging area. */
  #loadLinear(layout: Staging, linear: Linear, sources: readonly Rows[]): Loaded {
    const kernels = this.#kernels(linear.address);
    const pack = packOf(kernels, linear.format);
    const rowBytes = linear.inDim * 4; // room for F32 whatever is stored
    const rowsPerTurn = Math.floor(layout.staging.bytes / 2 / rowBytes / PANEL) * PANEL;
    assert(rowsPerTurn > 0, `the staging area holds no panel of ${linear.inDim} inputs`);
    const panelRowBytes = linear.inDim * WEIGHT_BYTES[linear.format];
    for (let row = 0; row < linear.outDim; row += rowsPerTurn) {
      const count = Math.min(rowsPerTurn, linear.outDim - row);
      this.#stage(layout, sources, row, count, linear);
      pack(offsetOf(linear.address) + row * panelRowBytes, offsetOf(layout.staging.address), count, linear.inDim, linear.inDim);
    }
    if (linear.format === 'int8') {
      let to = linear.address + panelBytes(linear.outDim, linear.inDim, 'int8');
      for (const { part, from, count } of sources) {
        this.#loadScales(layout, to, part, from, count);
        to += count * 4;
      }
    }
    const sum = (bytesOf: (rows: Rows) => number): number => sources.reduce((total, rows) => total + bytesOf(rows), 0);
    const bytes = sum(({ part, count }) => count * linear.inDim * DTYPE_BYTES[part.tensor.dtype]);
    return { tensor: sources[0]?.part.name ?? '', bytes, of: sum(({ part }) => part.tensor.bytes) };
  }

  /** Scales of outputs `from`…`from + count` as F32 at `to`. */
  #loadScales(layout: Staging, to: number, { name, scale }: LoadedPart, from: number, count: number): void {
    if (scale === null) invariantBroken(`the checkpoint was checked, and ${name} has no scales`);
    else this.#widenInto(layout, to, scale, from, count);
  }

  /** This rank's heads of a stored [heads × (a + b), in] matrix, cut by head into `a` and `b` rows, each packed apart. */
  #loadHeads(layout: NpuLayout, name: string, cuts: readonly { readonly linear: Linear; readonly transposed: boolean }[]): Loaded {
    const part = this.#part(name);
    const { first, count } = layout.split.heads;
    const rowsOfHead = cuts.reduce((sum, { linear, transposed }) => sum + (transposed ? linear.inDim : linear.outDim), 0);
    assert(rowsOfHead * this.#checkpoint.config.heads === part.shape[0], `${name} has ${part.shape[0]} rows, each of its heads takes ${rowsOfHead}`);
    let row = first * rowsOfHead;
    for (let head = 0; head < count; head++) {
      for (const { linear, transposed } of cuts) {
        const kernels = this.#kernels(linear.address);
        const [rows, columns] = transposed ? [linear.inDim, linear.outDim] : [linear.outDim, linear.inDim];
        this.#stage(layout, [{ part, from: row, count: rows }], 0, rows, { ...linear, inDim: columns });
        const to = offsetOf(linear.address) + head * linear.head_bytes;
        const from = offsetOf(layout.staging.address);
        if (transposed) (linear.format === 'bf16' ? kernels.packBf16Transposed : kernels.packF32Transposed)(to, from, linear.outDim, linear.inDim, columns);
        else packOf(kernels, linear.format)(to, from, linear.outDim, linear.inDim, columns);
        if (linear.format === 'int8')
          this.#loadScales(layout, linear.address + head * linear.head_bytes + panelBytes(linear.outDim, linear.inDim, 'int8'), part, row, rows);
        row += rows;
      }
    }
    return { tensor: name, bytes: (part.tensor.bytes / this.#checkpoint.config.heads) * count, of: part.tensor.bytes };
  }

  /** Puts rows `row`…`row + count` of the stacked sources into the staging area, in the linear's format. */
  #stage(layout: Staging, sources: readonly Rows[], row: number, count: number, { inDim, format }: Linear): void {
    let to = layout.staging.address;
    let skip = row;
    let left = count;
    for (const { part, from, count: rows } of sources) {
      const take = Math.min(Math.max(rows - skip, 0), left);
      if (take > 0) {
        if (format !== 'f32' || part.tensor.dtype === 'F32') {
          const bytes = take * inDim * DTYPE_BYTES[part.tensor.dtype];
          this.#checkpoint.readInto(part.tensor, this.#space.bytesAt(to, bytes), (from + skip) * inDim * DTYPE_BYTES[part.tensor.dtype], bytes);
          to += bytes;
        } else {
          this.#widenInto(layout, to, part.tensor, (from + skip) * inDim, take * inDim);
          to += take * inDim * 4;
        }
        left -= take;
      }
      skip = Math.max(0, skip - rows);
    }
    assert(left === 0, `${left} rows are missing`);
  }

  /** Elements `from`…`from + count` as F32 at `to`, through the upper half of the staging area. */
  #widenInto(layout: Staging, to: number, tensor: StoredTensor, from: number, count: number): void {
    const kernels = this.#kernels(to);
    const half = layout.staging.bytes / 2;
    const raw = layout.staging.address + half;
    const perTurn = Math.floor(half / 4);
    for (let done = 0; done < count; done += perTurn) {
      const now = Math.min(perTurn, count - done);
      const bytes = now * DTYPE_BYTES[tensor.dtype];
      const target = to + done * 4;
      if (tensor.dtype === 'F32') {
        this.#checkpoint.readInto(tensor, this.#space.bytesAt(target, bytes), (from + done) * 4, bytes);
        continue;
      }
      this.#checkpoint.readInto(tensor, this.#space.bytesAt(raw, bytes), (from + done) * 2, bytes);
      (tensor.dtype === 'BF16' ? kernels.widenBf16 : kernels.widenF16)(offsetOf(target), offsetOf(raw), now);
    }
  }

  #writeRopeTable(layout: NpuLayout): void {
    const { maxPositions, rope } = this.#checkpoint.config;
    const yarn = rope.yarn === null ? null : { ...rope.yarn, originalMaxPosition: rope.yarn.originalMaxPositions };
    const floats = this.#space.floatsOf(layout.ropeTable);
    const at = offsetOf(layout.ropeTable) / 4;
    ropeTable(maxPositions, rope.dim, rope.theta, yarn, floats.subarray(at, at + ropeTableLength(maxPositions, rope.dim)) as Float32Array<ArrayBuffer>);
  }

  /** Piece by piece: everything but experts is of the same size in each region, and in the same order. */
  #copyReplicated(from: NpuLayout, to: NpuLayout): void {
    const sources = [...from.replicated, sumsOf(from)];
    for (const [index, { address, bytes }] of [...to.replicated, sumsOf(to)].entries())
      this.#space.copy(address, (sources[index] as WeightPiece).address, bytes);
  }

  #kernels(address: number): Kernels {
    return this.#kernelsOf(segmentOf(address));
  }
}
