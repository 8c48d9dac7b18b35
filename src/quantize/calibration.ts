/**
 * What a layer's weights are multiplied with when the model reads a text: run layer after layer over all of the text, so that one layer's rows are held at a time.
 *
 *   x of all rows ─▶ layer 0 of each window ─▶ its inputs are told, x is kept ─▶ layer 1 …
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { type BareModel, PASS_ROWS_MAX } from '../fidelity/bare-model.ts';
import type { TextWindow } from '../fidelity/text-windows.ts';
import { attendedWidth } from '../flowserve/forward/rank-split.ts';
import { isMoeLayer } from '../model/moe-layers.ts';
import { type Matrix, matrix } from './matrix.ts';

/** An expert's rows: which they are, of all rows, and its activations for them. */
export type ExpertRows = { readonly indices: readonly number[]; readonly activated: Matrix };

export type LayerInputs = {
  /** Of q_a and kv_a, or q, k and v. */
  readonly attention: Matrix;
  /** Of q_b; null where there is none. */
  readonly queryLatent: Matrix | null;
  /** Of o. */
  readonly attended: Matrix;
  /** Of gate, up and router. */
  readonly feedForward: Matrix;
  /** Of the dense MLP's or the shared expert's down; null where there is neither. */
  readonly activated: Matrix | null;
  /** By expert id; empty in a dense layer. An expert that nobody was sent to has no rows. */
  readonly experts: readonly ExpertRows[];
};

export class Calibration {
  readonly #model: BareModel;
  readonly #windows: readonly TextWindow[];
  /** By window. */
  readonly #x: Float32Array[] = [];
  readonly rows: number;

  constructor(model: BareModel, windows: readonly TextWindow[]) {
    this.#model = model;
    this.#windows = windows;
    this.rows = windows.reduce((sum, { ids }) => sum + ids.length, 0);
    for (const { ids } of windows) {
      const x = new Float32Array(ids.length * model.config.hiddenSize);
      for (let start = 0; start < ids.length; start += PASS_ROWS_MAX) {
        const part = ids.slice(start, start + PASS_ROWS_MAX);
        model.embed(part);
        x.set(model.rowsAt('x', model.config.hiddenSize, part.length), start * model.config.hiddenSize);
      }
      this.#x.push(x);
    }
  }

  /** Runs a layer over all windows: layers are asked for in their order. */
  async layer(layer: number): Promise<LayerInputs> {
    const model = this.#model;
    const { hiddenSize, attention, mlp, moe } = model.config;
    const width = attendedWidth(model.config);
    const isMoe = isMoeLayer(model.config, layer);
    const qLora = attention.kind === 'mla' ? attention.qLoraRank : null;
    const activatedWidth = isMoe ? moe.sharedExperts * moe.intermediateSize : mlp.intermediateSize;
    const all = (columns: number): Float32Array => new Float32Array(this.rows * columns);
    const [attentionIn, queryLatent, attended, feedForward, activated] = [all(hiddenSize), all(qLora ?? 0), all(width), all(hiddenSize), all(activatedWidth)];
    const experts = Array.from({ length: isMoe ? moe.experts : 0 }, () => ({ indices: [] as number[], activated: [] as Float32Array[] }));
    let done = 0;
    for (const [window, { ids }] of this.#windows.entries()) {
      const x = this.#x[window] as Float32Array;
      for (let start = 0; start < ids.length; start += PASS_ROWS_MAX) {
        const rows = Math.min(PASS_ROWS_MAX, ids.length - start);
        const own = model.rowsAt('x', hiddenSize, rows);
        model.place(start, rows);
        own.set(x.subarray(start * hiddenSize, (start + rows) * hiddenSize));
        model.attend(layer, rows);
        attentionIn.set(model.rowsAt('normed', hiddenSize, rows), done * hiddenSize);
        if (qLora !== null) queryLatent.set(model.rowsAt('qA', qLora, rows), done * qLora);
        attended.set(model.rowsAt(attention.kind === 'mla' ? 'values' : 'attention', width, rows), done * width);
        model.project(layer, rows);
        feedForward.set(model.rowsAt('normed', hiddenSize, rows), done * hiddenSize);
        const first = done;
        model.feedForward(
          layer,
          rows,
          (expert, indices) => {
            const kept = experts[expert] as (typeof experts)[number];
            for (const index of indices) kept.indices.push(first + index);
            kept.activated.push(model.rowsAt('activated', moe.intermediateSize, indices.length).slice());
          },
          () => activated.set(model.rowsAt('activated', activatedWidth, rows), first * activatedWidth),
        );
        x.set(own, start * hiddenSize);
        done += rows;
      }
      await setImmediate();
    }
    return {
      attention: matrix(attentionIn, hiddenSize),
      queryLatent: qLora === null ? null : matrix(queryLatent, qLora),
      attended: matrix(attended, width),
      feedForward: matrix(feedForward, hiddenSize),
      activated: activatedWidth === 0 ? null : matrix(activated, activatedWidth),
      experts: experts.map((expert) => ({ indices: expert.indices, activated: matrix(joined(expert.activated), moe.intermediateSize) })),
    };
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
