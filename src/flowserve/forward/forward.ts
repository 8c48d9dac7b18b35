/**
 * The model's forward pass on one NPU, layer by layer: the kernel calls of attention, dense MLP, gate, experts and head.
 * Each call reads as a line of the formula; what they share is the NPU's scratch. Called by the step program, and by the bare loop of the bench.
 * @module
 */

import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';
import { KernelRecorder } from '../../model/kernels/program.ts';
import { assert } from '../../protocol/errors.ts';
import { evenExpertsAt } from '../experts/average-routing.ts';
import type { ExpertBatches } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { MaskedExperts } from '../experts/masked-experts.ts';
import { routedAt } from '../experts/routed-steps.ts';
import type { MtpWeights } from '../layouts/mtp-layout.ts';
import type { LayerWeights, MlpWeights, MoeWeights, NpuLayout } from '../layouts/npu-layout.ts';
import type { Scratch } from '../layouts/scratch-layout.ts';
import { DecodeGraphs } from '../steps/decode-graphs.ts';
import { Sampler } from '../steps/sampler.ts';
import type { Arithmetic, GuardSeat, Span, TokenSampler } from './arithmetic.ts';
import { AttentionForward } from './attention-forward.ts';
import { ExpertForward } from './expert-forward.ts';
import { narrowRows, sentFrom } from './narrow-rows.ts';
import { Products } from './products.ts';
import { tablesOf } from './rank-split.ts';
import type { GatherTables } from './tensor-share.ts';

export class Forward implements Arithmetic {
  readonly config: ModelConfig;
  readonly layout: NpuLayout;
  readonly kernels: Kernels;
  /** Offsets within the NPU's segment. */
  readonly at: Scratch;
  readonly tables: GatherTables;
  readonly experts: ExpertForward;
  readonly guard: GuardSeat;
  readonly #hidden: number;
  readonly #heads: AttentionForward;
  readonly products: Products;
  masked: MaskedExperts | null = null;

  constructor(config: ModelConfig, layout: NpuLayout, kernels: Kernels) {
    const segment = segmentOf(layout.base);
    assert(segmentOf(layout.base + layout.bytes - 1) === segment, `the region of NPU ${layout.npu} spans segments`);
    this.config = config;
    this.layout = layout;
    this.kernels = kernels;
    this.at = Object.fromEntries(Object.entries(layout.scratch).map(([name, address]) => [name, offsetOf(address)])) as Scratch;
    this.#hidden = config.hiddenSize;
    this.tables = tablesOf(config, layout);
    this.products = new Products(kernels, layout.scratch);
    this.#heads = new AttentionForward(config, layout, kernels, this.products, this.at);
    this.experts = new ExpertForward(
      config,
      layout,
      layout.layers.map(({ moe }) => moe),
      kernels,
    );
    this.guard = this.experts.guard;
  }

  /** x = embedding rows of `tokenIds`. */
  embed(rows: number): void {
    const { x, tokenIds } = this.at;
    const { address, format } = this.layout.embedding;
    if (format === 'bf16') this.kernels.embedBf16(x, this.#hidden, offsetOf(address), tokenIds, rows, this.#hidden);
    else this.kernels.embedF32(x, this.#hidden, offsetOf(address), tokenIds, rows, this.#hidden);
  }

  /** x += attention(norm(x)) */
  attention(layer: number, rows: number, spans: readonly Span[]): void {
    this.attend(layer, rows, spans);
    this.project(layer, rows);
    this.addProjected(rows);
  }

  /** attended = what the heads put out of norm(x). */
  attend(layer: number, rows: number, spans: readonly Span[]): void {
    this.#norm(this.at.normed, this.at.x, rows, this.#layer(layer).inputNorm.address);
    this.#heads.attend(layer, rows, spans);
  }

  writeCells(layer: number, rows: number, spans: readonly Span[]): void {
    this.#norm(this.at.normed, this.at.x, rows, this.#layer(layer).inputNorm.address);
    this.#heads.writeCells(layer, rows, spans);
  }

  /** projected = o(attended) */
  project(layer: number, rows: number): void {
    const { kind } = this.#layer(layer).attention;
    this.projectColumns(layer, rows, this.at.projected, kind === 'mla' ? this.at.values : this.at.attention);
  }

  projectColumns(layer: number, rows: number, y: number, x: number): void {
    const { o } = this.#layer(layer).attention;
    this.products.multiply(y + this.layout.split.projection.first * 4, this.#hidden, x, o.inDim, rows, o);
  }

  /** x += projected */
  addProjected(rows: number): void {
    this.kernels.addInPlace(this.at.x, this.at.projected, rows * this.#hidden);
  }

  /** normed = norm(x), the input of MLP and experts. */
  postNorm(layer: number, rows: number, first = 0): void {
    const skip = first * this.#hidden * 4;
    this.#norm(this.at.normed + skip, this.at.x + skip, rows, this.#layer(layer).postNorm.address);
  }

  /** x += mlp(normed), for a dense layer. */
  dense(layer: number, rows: number): void {
    this.mlp(this.#dense(layer), this.at.projected, this.at.normed, rows);
    this.addProjected(rows);
  }

  /** inner = silu(gate(normed)) · up(normed) */
  activate(layer: number, rows: number): void {
    const { gateUp } = this.#dense(layer);
    const { first, count } = this.layout.split.inner;
    this.products.multiply(this.at.gateUp, 2 * count, this.at.normed, this.#hidden, rows, gateUp);
    this.kernels.siluMul(this.at.inner + first * 4, this.config.mlp.intermediateSize, this.at.gateUp, 2 * count, rows, count);
  }

  /** projected = down(inner) */
  down(layer: number, rows: number): void {
    const { down } = this.#dense(layer);
    this.products.multiply(this.at.projected + this.layout.split.hidden.first * 4, this.#hidden, this.at.inner, down.inDim, rows, down);
  }

  /** experts, expertWeights = gate(normed); counts what is routed where. Afterwards `normed` is what experts read. */
  gate(layer: number, rows: number, first = 0): void {
    const [{ routerLogits, experts, expertWeights, gateScratch }, { moe }] = [this.at, this.config];
    const normed = this.at.normed + first * this.#hidden * 4;
    const [{ router, bias }, counts] = [this.moe(layer), this.layout.counts[layer]];
    assert(counts && (bias || moe.gating.kind !== 'sigmoid'), `layer ${layer} counts no experts, or has no correction bias`);
    this.products.multiply(routerLogits, moe.experts, normed, this.#hidden, rows, router);
    if (moe.gating.kind === 'sigmoid') {
      const { groups, topkGroups, normalise, scalingFactor } = moe.gating;
      const correction = offsetOf(bias?.address ?? 0);
      this.kernels.gateSigmoid(
        experts,
        expertWeights,
        routerLogits,
        rows,
        moe.experts,
        this.masked?.maskedBias(layer, this.at, correction, moe.experts) ?? correction,
        groups,
        topkGroups,
        moe.topK,
        normalise ? 1 : 0,
        scalingFactor,
        gateScratch,
      );
    } else {
      this.masked?.maskScores(layer, this.at, rows, moe.experts);
      this.kernels.gateSoftmax(experts, expertWeights, routerLogits, rows, moe.experts, moe.topK, moe.gating.normalise ? 1 : 0, gateScratch);
    }
    this.masked?.check(layer, this.at, rows * moe.topK);
    const { routing, evenExperts, npu } = this.layout;
    if (evenExperts !== null) this.kernels.copyBytes(experts, evenExpertsAt(this.config, evenExperts, npu, layer, first), rows * moe.topK * 4);
    this.kernels.countExperts(offsetOf(counts), experts, rows * moe.topK);
    if (this.layout.narrow.there === 'int8') narrowRows(this.kernels, sentFrom(this.at, first, this.#hidden), normed, rows, this.#hidden);
    // What an MTP layer chooses is in no routing trace: its rows are of other positions, and some of them of tokens that never come.
    if (routing === null || layer >= this.config.layers) return;
    const skip = routedAt(routing, layer, first, moe.topK);
    this.kernels.copyBytes(offsetOf(routing.experts) + skip, experts, rows * moe.topK * 4);
    this.kernels.copyBytes(offsetOf(routing.weights) + skip, expertWeights, rows * moe.topK * 4);
  }

  gatherRows(to: number, from: number, indices: number, count: number): void {
    this.experts.gatherRows(to, from, indices, count);
  }

  expert(layer: number, slot: number, y: number, x: number, count: number): void {
    this.experts.expert(layer, slot, y, x, count);
  }

  /** sharedOut = shared expert(normed), if the model has one and this NPU has it. */
  sharedExpert(layer: number, rows: number, first = 0): void {
    const { shared } = this.moe(layer);
    if (shared === null) return;
    this.mlp(shared, this.at.sharedOut, this.at.normed + first * this.#hidden * 4, rows);
    this.experts.narrowAnswers(this.at.sharedOut, rows);
  }

  /** x += Σ weight · reply by expert id, then the shared expert's row. */
  combine(layer: number, rows: number, first = 0): void {
    const { replies, rowIndices, expertWeights, sharedOut } = this.at;
    const { topK } = this.config.moe;
    const x = this.at.x + first * this.#hidden * 4;
    // Where a peer computes it, its rows are the last answers.
    const peers = this.layout.sharedNpu === null ? 0 : replies + rows * topK * this.layout.row_bytes;
    const shared = this.moe(layer).shared === null ? peers : sharedOut;
    this.kernels.combineRows(x, this.#hidden, replies, rowIndices, expertWeights, topK, shared, this.#hidden, rows, this.#hidden);
  }

  /** y = down(silu(gate(x)) · up(x)) */
  mlp(weights: MlpWeights, y: number, x: number, rows: number): void {
    this.experts.mlp(weights, y, x, rows);
  }

  keepRows(rows: number, first: number): void {
    const rowBytes = this.#hidden * 4;
    this.kernels.copyBytes(this.at.ownRows + first * rowBytes, this.at.x + first * rowBytes, rows * rowBytes);
  }

  takeRows(rows: number): void {
    this.kernels.copyBytes(this.at.x, this.at.ownRows, rows * this.#hidden * 4);
  }

  /**
   * x = eh_proj [ enorm(embedding rows of `tokenIds`) | hnorm(h) ], the input of an MTP layer. h: what the layers so far have left, the main model's through its
   * last norm.
   */
  foresee(layer: number, rows: number, isMain: boolean): void {
    const { x, normed, joined, tokenIds } = this.at;
    const { address, format } = this.layout.embedding;
    const { enorm, hnorm, project } = this.#mtp(layer);
    const hidden = this.#hidden;
    if (isMain) this.#norm(x, x, rows, this.layout.finalNorm.address);
    this.kernels.rmsNorm(joined + hidden * 4, 2 * hidden, x, hidden, rows, hidden, offsetOf(hnorm.address), this.config.rmsNormEps);
    if (format === 'bf16') this.kernels.embedBf16(normed, hidden, offsetOf(address), tokenIds, rows, hidden);
    else this.kernels.embedF32(normed, hidden, offsetOf(address), tokenIds, rows, hidden);
    this.kernels.rmsNorm(joined, 2 * hidden, normed, hidden, rows, hidden, offsetOf(enorm.address), this.config.rmsNormEps);
    this.products.multiply(x, hidden, joined, 2 * hidden, rows, project);
  }

  /** logits row first + i = head(norm(x[rowsOf(i)])), `count` of them; `layer`: an MTP layer, whose norm it is then. */
  head(rowOf: (index: number) => number, count: number, first = 0, layer = -1): void {
    const { x, headRows, logits } = this.at;
    const rowBytes = this.#hidden * 4;
    const { vocabSize } = this.config;
    const { norm } = layer < 0 ? { norm: this.layout.finalNorm } : this.#mtp(layer);
    // Rows that lie side by side, as in every decode step, are one call.
    for (let index = 0; index < count; ) {
      const row = rowOf(index);
      let next = index + 1;
      while (next < count && rowOf(next) === row + next - index) next++;
      this.#norm(headRows + index * rowBytes, x + row * rowBytes, next - index, norm.address);
      index = next;
    }
    this.products.multiply(logits + (first * vocabSize + this.layout.split.vocab.first) * 4, vocabSize, headRows, this.#hidden, count, this.layout.head);
  }

  moveRow(from: number, to: number): void {
    const rowBytes = this.#hidden * 4;
    this.kernels.copyBytes(this.at.x + to * rowBytes, this.at.x + from * rowBytes, rowBytes);
  }

  get wire(): Kernels {
    return this.kernels;
  }

  second(): Forward {
    const { config, layout, kernels } = this;
    assert(layout.second, `NPU ${layout.npu} has one micro-batch`);
    const { scratch, routing } = layout.second;
    return new Forward(config, { ...layout, scratch, routing, graphs: layout.secondGraphs }, kernels);
  }

  newSampler(space: AddressSpace): TokenSampler {
    return new Sampler(this, space);
  }

  newGraphs(batches: ExpertBatches, service: ExpertService, space: AddressSpace): DecodeGraphs | null {
    const { config, layout } = this;
    if (layout.graphs === null) return null;
    const recorder = new KernelRecorder(space.wordsOf(layout.base));
    return new DecodeGraphs(this, new Forward(config, layout, recorder.kernels), recorder, layout.graphs, batches, service, space);
  }

  #mtp(layer: number): MtpWeights {
    const weights = this.layout.mtp[layer - this.config.layers];
    assert(weights, `layer ${layer} is no MTP layer in memory`);
    return weights;
  }

  moe(layer: number): MoeWeights {
    const { moe } = this.#layer(layer);
    assert(moe, `layer ${layer} has no experts`);
    return moe;
  }

  #layer(layer: number): LayerWeights {
    const weights = this.layout.layers[layer];
    assert(weights, `the model has no layer ${layer}`);
    return weights;
  }

  #dense(layer: number): MlpWeights {
    const { mlp } = this.#layer(layer);
    assert(mlp, `layer ${layer} is no dense layer`);
    return mlp;
  }

  #norm(y: number, x: number, rows: number, weight: number): void {
    this.kernels.rmsNorm(y, this.#hidden, x, this.#hidden, rows, this.#hidden, offsetOf(weight), this.config.rmsNormEps);
  }
}
