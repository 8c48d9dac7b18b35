/**
 * A model on one NPU and on this thread, without actors: the forward pass that serves, layer by layer, with what it leaves in between to be looked at.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { allocateSegments } from '../fabric/memory-plan.ts';
import { ExpertBatches, type Share } from '../flowserve/experts/expert-batches.ts';
import { EXPERT_MASK, SLOT_SHIFT } from '../flowserve/experts/expert-slots.ts';
import type { Span } from '../flowserve/forward/arithmetic.ts';
import { Forward } from '../flowserve/forward/forward.ts';
import { LOGIT_ROWS_MAX, type Scratch } from '../flowserve/layouts/scratch-layout.ts';
import { SPAN, SPAN_WORDS } from '../flowserve/layouts/step-layout.ts';
import { type PlanOptions, planPod } from '../flowserve/pod-plan.ts';
import { openCheckpoint } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { instantiateKernels, type Kernels, loadKernelModule } from '../model/kernels/kernels.ts';
import { isMoeLayer } from '../model/moe-layers.ts';
import { podOptionsSchema } from '../options/options.ts';
import { loadWeights } from '../platform/weights.ts';
import { assert } from '../protocol/errors.ts';
import { type Numerics, numericsOf } from '../protocol/numerics.ts';
import { colocated } from '../protocol/topology.ts';

/** Rows that one pass computes. */
export const PASS_ROWS_MAX = 256;

/** Told what an expert has just computed: `indices`, of rows of the pass; its activations lie in the scratch, in that order. */
export type OnExpert = (expert: number, indices: Uint32Array) => void;

export class BareModel {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly #forward: Forward;
  readonly #batches: ExpertBatches;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  #spans: readonly Span[] = [];

  /** `context`: positions that it has KV for. @throws `invalid_checkpoint`, `out_of_memory` */
  static async open(folder: string, context: number, numerics: Numerics = {}): Promise<BareModel> {
    using checkpoint = openCheckpoint(folder);
    const defaults = podOptionsSchema.parse({});
    const options: PlanOptions = {
      ...defaults,
      ...numericsOf(numerics),
      topology: colocated(1),
      npu_workers: undefined,
      job_executors: 1,
      max_queued: 1,
      kv_blocks: Math.ceil(context / defaults.kv_block_size),
      max_batch_tokens: PASS_ROWS_MAX,
      max_batch_requests: 1,
      memory_bytes: undefined,
      enforce_eager: true,
      has_rings: false,
    };
    const plan = planPod(checkpoint, options);
    const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
    const module = await loadKernelModule();
    await loadWeights(checkpoint, plan, space, module, { onProgress: async () => {} });
    const [layout] = plan.layouts;
    const [memory] = space.memories;
    assert(layout?.kind === 'attention' && memory !== undefined && space.memories.length === 1, 'one NPU lies in one segment');
    const forward = new Forward(plan.config, layout, instantiateKernels(module, memory));
    return new BareModel(forward, space, new ExpertBatches(forward, space));
  }

  private constructor(forward: Forward, space: AddressSpace, batches: ExpertBatches) {
    const { layout } = forward;
    this.config = forward.config;
    this.kernels = forward.kernels;
    this.#forward = forward;
    this.#batches = batches;
    this.#words = space.wordsOf(layout.base);
    this.#floats = space.floatsOf(layout.base);
    // One sequence, whose blocks follow one another.
    const table = offsetOf(layout.blockTables.address) >>> 2;
    for (let block = 0; block < layout.kv.blocks; block++) this.#words[table + block] = offsetOf(layout.kv.address) + block * layout.kv.block_bytes;
  }

  /** Which positions the next rows have: those from `start` on. Their KV, and that of all before them, is the sequence's. */
  place(start: number, rows: number): void {
    const { at, layout } = this.#forward;
    assert(rows <= PASS_ROWS_MAX && start + rows <= layout.kv.blocks * layout.kv.block_size, `rows ${start} + ${rows} have no room`);
    for (let row = 0; row < rows; row++) this.#words[(at.positions >>> 2) + row] = start + row;
    const span = at.spans >>> 2;
    this.#words[span + SPAN.row] = 0;
    this.#words[span + SPAN.rows] = rows;
    this.#words[span + SPAN.table] = offsetOf(layout.blockTables.address);
    this.#words[span + SPAN.from] = 0;
    assert(SPAN_WORDS === 4, 'a span is written whole');
    this.#spans = [{ slot: 0, row: 0, rows }];
  }

  /** x = embedding of `ids`. */
  embed(ids: readonly number[]): void {
    this.#words.set(ids, this.#forward.at.tokenIds >>> 2);
    this.#forward.embed(ids.length);
  }

  /** A layer's first half: what heads put out, before its projection. */
  attend(layer: number, rows: number): void {
    this.#forward.attend(layer, rows, this.#spans);
  }

  /** x += o(attended), and `normed`, what MLP and experts are given. */
  project(layer: number, rows: number): void {
    this.#forward.project(layer, rows);
    this.#forward.addProjected(rows);
    this.#forward.postNorm(layer, rows);
  }

  /** x += MLP or experts. `onShared` is told when the shared expert's activations, or the dense MLP's, lie in the scratch. */
  feedForward(layer: number, rows: number, onExpert: OnExpert = () => {}, onShared: () => void = () => {}): void {
    if (!isMoeLayer(this.config, layer)) {
      this.#forward.dense(layer, rows);
      onShared();
      return;
    }
    this.#forward.gate(layer, rows);
    const [all] = this.#batches.sort(layer, rows);
    if (all !== undefined) this.#experts(layer, all, onExpert);
    this.#forward.sharedExpert(layer, rows);
    if (this.config.moe.sharedExperts > 0) onShared();
    this.#forward.combine(layer, rows);
  }

  layer(layer: number, rows: number): void {
    this.attend(layer, rows);
    this.project(layer, rows);
    this.feedForward(layer, rows);
  }

  /** Each expert's rows as one call, which is what ExpertBatches makes of a share. */
  #experts(layer: number, { firstSegment, segments, firstPair }: Share, onExpert: OnExpert): void {
    const { at, layout } = this.#forward;
    let pair = firstPair;
    for (let segment = firstSegment; segment < firstSegment + segments; segment++) {
      const [key = 0, count = 0] = this.#words.subarray((at.segments >>> 2) + 2 * segment, (at.segments >>> 2) + 2 * segment + 2);
      const indices = at.pairRows + pair * 4;
      this.#forward.gatherRows(at.gathered, at.normed, indices, count);
      this.#forward.expert(layer, key >>> SLOT_SHIFT, at.replies + pair * layout.row_bytes, at.gathered, count);
      onExpert(key & EXPERT_MASK, Uint32Array.from(this.#words.subarray(indices >>> 2, (indices >>> 2) + count)));
      pair += count;
    }
  }

  /** Rows of activations, `width` floats each, as they lie in memory: good until the next call. */
  rowsAt(what: keyof Scratch, width: number, rows: number): Float32Array {
    const word = this.#forward.at[what] >>> 2;
    return this.#floats.subarray(word, word + rows * width);
  }

  /** Logits of `count` rows from `first` on, at most LOGIT_ROWS_MAX, and where in memory they lie. */
  logits(first: number, count: number): { readonly values: Float32Array; readonly address: number } {
    assert(count <= LOGIT_ROWS_MAX, `logits of ${count} rows at once`);
    this.#forward.head((row) => first + row, count);
    return { values: this.rowsAt('logits', this.config.vocabSize, count), address: this.#forward.at.logits };
  }
}
