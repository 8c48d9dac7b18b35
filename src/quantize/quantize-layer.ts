/**
 * A layer's weights in INT8 (xDeepServe §4.7). Products that read the same rows are smoothed together, by factors that whoever makes these rows takes back:
 *
 *   input norm     ─▶ q_a, kv_a  (q, k, v)
 *   q_a's norm     ─▶ q_b
 *   W_UV (v)       ─▶ o
 *   post norm      ─▶ gate and up of the dense MLP, or of the shared and all routed experts; the router, which stays as it is, reads them too
 *   up             ─▶ down
 * @module
 */
import type { ModelConfig } from '../model/config.ts';
import { isMoeLayer } from '../model/moe-layers.ts';
import { assert } from '../protocol/errors.ts';
import type { LayerInputs } from './calibration.ts';
import { columnSizes, type Matrix, nearestBf16, pickRows, scaleColumns, spreadRows } from './matrix.ts';
import { addErrors, type OutputError, outputError } from './output-error.ts';
import { type CompensationFactor, compensationFactor, type QuantizedMatrix, roundPlainly, roundWithCompensation } from './round-weights.ts';
import type { RowProducts } from './row-products.ts';
import { chooseSmoothing, noSmoothing, type Smoothing } from './smoothing.ts';

export type QuantizeMethod = { readonly smoothing: boolean; readonly compensation: boolean };

/** What products of one kind lose, ‖Y − Ŷ‖ ÷ ‖Y‖ of rows that were not calibrated on: rounded plainly, then smoothed, then compensated. */
export type ProductErrors = {
  readonly layer: number;
  readonly product: string;
  /** How much is moved from activations to weights; null: nothing is. */
  readonly alpha: number | 'tuned' | null;
  readonly plain: OutputError;
  readonly smoothed: OutputError;
  readonly compensated: OutputError;
};

export type QuantizedLayer = {
  /** By name of the weight. */
  readonly quantized: ReadonlyMap<string, QuantizedMatrix>;
  /** What stays as it is stored, but for smoothing's factors. */
  readonly rescaled: ReadonlyMap<string, Float32Array>;
  readonly errors: readonly ProductErrors[];
};

/** Every so manieth row is for the errors, and is not calibrated on. */
const CHECK_EVERY = 8;
const CHECK_ROWS_MAX = 128;
const TRIAL_ROWS_MAX = 128;
/** Rows that smoothing is tuned on, of all products together: the shipped model’s first `down` loses 0.90 % with 512, 0.85 % with 3,072. */
const TUNED_ROWS_MAX = 8_192;
/** Experts that smoothing is tried on, with so many rows each. */
const TRIAL_EXPERTS_MAX = 16;
const TRIAL_EXPERT_ROWS_MAX = 32;
const COMPENSATION_ROWS_MAX = 4_096;

/** `tied`: by channel, the first of those with the same factor. `norm`: its weights take factors back. `channels`: rows by which the channels' sizes are known. */
type Shared = { readonly tied?: Uint32Array | undefined; readonly norm?: string; readonly channels?: Matrix; readonly into?: ProductErrors[] };

/** One of the products of some rows. */
type Product = { readonly name: string; readonly inputs: Matrix };

export class LayerQuantizer {
  readonly #config: ModelConfig;
  readonly #read: (name: string) => Matrix;
  readonly #method: QuantizeMethod;
  readonly #multiplied: RowProducts;
  readonly #layer: number;
  readonly #quantized = new Map<string, QuantizedMatrix>();
  readonly #rescaled = new Map<string, Float32Array>();
  readonly #errors: ProductErrors[] = [];

  /** `read`: a weight of the checkpoint, by name. */
  constructor(config: ModelConfig, layer: number, read: (name: string) => Matrix, method: QuantizeMethod, multiplied: RowProducts) {
    this.#config = config;
    this.#layer = layer;
    this.#read = read;
    this.#method = method;
    this.#multiplied = multiplied;
  }

  quantize(inputs: LayerInputs): QuantizedLayer {
    this.#attention(inputs);
    this.#feedForward(inputs);
    return { quantized: this.#quantized, rescaled: this.#rescaled, errors: this.#errors };
  }

  #name(weight: string): string {
    return `model.layers.${this.#layer}.${weight}.weight`;
  }

  #attention({ attention: rows, queryLatent, attended }: LayerInputs): void {
    const { attention, heads } = this.#config;
    const of = (weight: string): string => this.#name(`self_attn.${weight}`);
    const o = this.#products('o', [{ name: of('o_proj'), inputs: attended }], { tied: this.#sharedValues() });
    if (attention.kind === 'gqa') {
      const qkv = this.#products(
        'q, k, v',
        ['q_proj', 'k_proj', 'v_proj'].map((weight) => ({ name: of(weight), inputs: rows })),
        { norm: this.#name('input_layernorm') },
      );
      this.#divideVector(this.#name('input_layernorm'), qkv.factors);
      const { headDim, kvHeads } = attention;
      const group = heads / kvHeads;
      const perValue = Float32Array.from(
        { length: kvHeads * headDim },
        (_, row) => o.factors[Math.floor(row / headDim) * group * headDim + (row % headDim)] ?? 1,
      );
      this.#divideOutputs(of('v_proj'), perValue);
      return;
    }
    const { qLoraRank, nopeDim, vDim } = attention;
    const down = qLoraRank === null ? 'q_proj' : 'q_a_proj';
    const latents = this.#products(
      qLoraRank === null ? 'q, kv_a' : 'q_a, kv_a',
      [down, 'kv_a_proj_with_mqa'].map((weight) => ({ name: of(weight), inputs: rows })),
      { norm: this.#name('input_layernorm') },
    );
    this.#divideVector(this.#name('input_layernorm'), latents.factors);
    if (queryLatent !== null) {
      const norm = of('q_a_layernorm');
      this.#divideVector(norm, this.#products('q_b', [{ name: of('q_b_proj'), inputs: queryLatent }], { norm }).factors);
    }
    // Rows of kv_b, by head: W_UK, then W_UV, which makes what o reads.
    const kvB = this.#read(of('kv_b_proj'));
    const perRow = Float32Array.from({ length: kvB.rows }, (_, row) => {
      const inHead = row % (nopeDim + vDim);
      return inHead < nopeDim ? 1 : (o.factors[Math.floor(row / (nopeDim + vDim)) * vDim + inHead - nopeDim] as number);
    });
    this.#rescaled.set(
      of('kv_b_proj'),
      kvB.values.map((value, at) => value / (perRow[Math.floor(at / kvB.columns)] as number)),
    );
  }

  /** By channel that o reads, the first of those that come from the same value: heads of a group share their KV head's. */
  #sharedValues(): Uint32Array | undefined {
    const { attention, heads } = this.#config;
    if (attention.kind === 'mla') return undefined;
    const { headDim, kvHeads } = attention;
    const group = heads / kvHeads;
    return Uint32Array.from({ length: heads * headDim }, (_, channel) => Math.floor(channel / headDim / group) * group * headDim + (channel % headDim));
  }

  #feedForward({ feedForward: rows, activated, experts }: LayerInputs): void {
    const isMoe = isMoeLayer(this.#config, this.#layer);
    const mlps: { readonly at: string; readonly inputs: Matrix; readonly activated: Matrix }[] = [];
    if (activated !== null) mlps.push({ at: isMoe ? 'mlp.shared_experts' : 'mlp', inputs: rows, activated });
    for (const [expert, { indices, activated: own }] of experts.entries())
      mlps.push({ at: `mlp.experts.${expert}`, inputs: pickRows(rows, indices), activated: own });
    const both = mlps.flatMap(({ at, inputs }) => ['gate_proj', 'up_proj'].map((weight) => ({ name: this.#name(`${at}.${weight}`), inputs })));
    const norm = this.#name('post_attention_layernorm');
    const { factors } = this.#products(isMoe ? 'gate, up of experts' : 'gate, up', both, { channels: rows, norm });
    this.#divideVector(norm, factors);
    if (isMoe) this.#rescaled.set(this.#name('mlp.gate'), scaleColumns(this.#read(this.#name('mlp.gate')), factors).values);
    const downs: ProductErrors[] = [];
    for (const { at, activated: inputs } of mlps) {
      const { factors: own } = this.#products('down', [{ name: this.#name(`${at}.down_proj`), inputs }], { into: downs });
      this.#divideOutputs(this.#name(`${at}.up_proj`), own);
    }
    const [first] = downs;
    assert(first, 'a layer has an MLP');
    const sum = (of: (errors: ProductErrors) => OutputError): OutputError => addErrors(downs.map(of));
    // Each has its own.
    const alpha = downs.every((own) => own.alpha === first.alpha) ? first.alpha : 'tuned';
    const product = isMoe ? 'down of experts' : 'down';
    this.#errors.push({
      layer: this.#layer,
      product,
      alpha,
      plain: sum((e) => e.plain),
      smoothed: sum((e) => e.smoothed),
      compensated: sum((e) => e.compensated),
    });
  }

  /** Smooths products of the same channels, rounds their weights, and measures both. */
  #products(product: string, products: readonly Product[], { tied, norm, channels = products[0]?.inputs, into = this.#errors }: Shared = {}): Smoothing {
    assert(channels, 'some rows are multiplied');
    const chosen = this.#method.smoothing ? chooseSmoothing(this.#multiplied, this.#trial(products), columnSizes(channels), tied) : null;
    const smoothing = chosen === null ? noSmoothing(channels.columns) : norm === undefined ? chosen : this.#asStored(norm, chosen);
    const inverse = smoothing.factors.map((factor) => 1 / factor);
    const errors: Record<'plain' | 'smoothed' | 'compensated', OutputError[]> = { plain: [], smoothed: [], compensated: [] };
    // Gate and up, or q, k and v, read the same rows: they are factored once.
    let factored: Matrix | null = null;
    let factor: CompensationFactor | null = null;
    for (const { name, inputs } of products) {
      const weights = this.#read(name);
      const smoothed = scaleColumns(weights, smoothing.factors);
      const [seen, kept] = parted(inputs);
      const plainly = roundPlainly(smoothed);
      let rounded = plainly;
      if (this.#method.compensation && seen.rows > 0) {
        if (factored !== inputs || factor === null)
          factor = compensationFactor(scaleColumns(spreadRows(seen, COMPENSATION_ROWS_MAX), inverse), this.#multiplied);
        factored = inputs;
        rounded = roundWithCompensation(smoothed, factor);
      }
      this.#quantized.set(name, rounded);
      const smoothKept = scaleColumns(kept, inverse);
      const exact = this.#multiplied.outputs(kept, weights);
      const errorOf = (rows: Matrix, by: QuantizedMatrix): OutputError => outputError(exact, this.#multiplied.quantizedOutputs(rows, by));
      errors.plain.push(errorOf(kept, smoothing.alpha === null ? plainly : roundPlainly(weights)));
      errors.smoothed.push(smoothing.alpha === null ? (errors.plain.at(-1) as OutputError) : errorOf(smoothKept, plainly));
      errors.compensated.push(rounded === plainly ? (errors.smoothed.at(-1) as OutputError) : errorOf(smoothKept, rounded));
    }
    const { plain, smoothed, compensated } = errors;
    const sums = { plain: addErrors(plain), smoothed: addErrors(smoothed), compensated: addErrors(compensated) };
    into.push({ layer: this.#layer, product, alpha: smoothing.alpha, ...sums });
    return smoothing;
  }

  /** What smoothing is tried on: a few rows of each, of a few where there are many. */
  #trial(products: readonly Product[]): { readonly inputs: Matrix; readonly weights: Matrix; readonly tuned: Matrix }[] {
    const isMany = products.length > TRIAL_EXPERTS_MAX;
    const step = isMany ? Math.ceil(products.length / TRIAL_EXPERTS_MAX) : 1;
    const tried = products.filter(({ inputs }, index) => index % step === 0 && inputs.rows > 0);
    const rows_max = isMany ? TRIAL_EXPERT_ROWS_MAX : TRIAL_ROWS_MAX;
    return tried.map(({ name, inputs }) => {
      const [rest, judged] = parted(parted(inputs)[0]);
      return {
        inputs: spreadRows(judged, rows_max),
        tuned: spreadRows(rest, TUNED_ROWS_MAX / Math.min(products.length, TRIAL_EXPERTS_MAX)),
        weights: this.#read(name),
      };
    });
  }

  /** Factors as a norm in BF16 takes them back, so that nothing of it is lost: γ ÷ s rounded, and s what that makes it. */
  #asStored(norm: string, { factors, alpha }: Smoothing): Smoothing {
    const { values } = this.#read(norm);
    const stored = factors.map((factor, channel) => {
      const weight = values[channel] as number;
      const rounded = nearestBf16(weight / factor);
      return rounded === 0 ? factor : weight / rounded;
    });
    return { factors: stored, alpha };
  }

  /** A norm's weights, or those of what makes the rows, take a factor back. */
  #divideVector(name: string, factors: Float32Array): void {
    this.#rescaled.set(
      name,
      this.#read(name).values.map((value, channel) => value / (factors[channel] as number)),
    );
  }

  /** Of a weight that is quantised: its outputs' scales, and its scales alone, which hold any factor. */
  #divideOutputs(name: string, factors: Float32Array): void {
    const found = this.#quantized.get(name);
    assert(found && found.rows === factors.length, `${name} is quantised before its reader's factors are taken back`);
    this.#quantized.set(name, { ...found, scales: found.scales.map((scale, row) => scale / (factors[row] as number)) });
  }
}

/** Those to calibrate on, and those to measure on. */
function parted(inputs: Matrix): readonly [Matrix, Matrix] {
  const indices = Array.from({ length: inputs.rows }, (_, row) => row);
  const isKept = (row: number): boolean => row % CHECK_EVERY === CHECK_EVERY - 1;
  return [
    pickRows(
      inputs,
      indices.filter((row) => !isKept(row)),
    ),
    spreadRows(pickRows(inputs, indices.filter(isKept)), CHECK_ROWS_MAX),
  ];
}
