/**
 * A checkpoint in INT8, from one in BF16 and a text to calibrate on: written in the Hugging Face layout, as compressed-tensors has it (model/quantization.ts).
 * @module
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BareModel } from '../fidelity/bare-model.ts';
import { cutText, type TextPart } from '../fidelity/text-windows.ts';
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.ts';
import { isQuantizable, type PlacedTensor } from '../model/inventory.ts';
import { readJsonFile } from '../model/json-file.ts';
import { isMoeLayer } from '../model/moe-layers.ts';
import { layerOf, quantizationConfig, scaleOf } from '../model/quantization.ts';
import { resolveModel } from '../model/registry.ts';
import type { Dtype } from '../model/safetensors.ts';
import { loadTokenizer } from '../model/tokenizer.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { Calibration, type LayerInputs } from './calibration.ts';
import { type Matrix, narrowed, readMatrix } from './matrix.ts';
import { relativeError } from './output-error.ts';
import { LayerQuantizer, type ProductErrors, type QuantizedLayer } from './quantize-layer.ts';
import { QuantizedFile, type TensorPlan } from './quantized-file.ts';
import { RowProducts } from './row-products.ts';

export type QuantizeOptions = Omit<TextPart, 'stride'> & {
  /** A model's name or folder. */
  readonly model: string;
  /** The folder to be made. */
  readonly out: string;
  /** The text to calibrate on. */
  readonly text: string;
  /** Times that each expert must have been chosen. Default: 4; xDeepServe's is typically 40 to 128. */
  readonly expert_tokens_min?: number | undefined;
  /** False, to compare with: activations are left as they are, or weights rounded plainly. */
  readonly smoothing?: boolean | undefined;
  readonly compensation?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
};

/** How often the experts of a layer were chosen by the text. */
export type Coverage = { readonly layer: number; readonly least: number; readonly median: number; readonly most: number };
export type ProductReport = Pick<ProductErrors, 'layer' | 'product' | 'alpha'> & {
  readonly plain: number;
  readonly smoothed: number;
  readonly compensated: number;
};

export type Quantized = {
  readonly out: string;
  readonly tokens: number;
  readonly coverage: readonly Coverage[];
  /** What each layer's products lose, relative to their output, on rows that were not calibrated on. */
  readonly products: readonly ProductReport[];
  readonly bytes: {
    /** Of the weights that were quantised: as they were, and INT8 with scales. */
    readonly weights_before: number;
    readonly weights: number;
    /** Of all tensors' files. */
    readonly file_before: number;
    readonly file: number;
  };
};

/** What calibration takes where nothing is said, and in windows of so many ids. */
const TOKENS_MAX = 16_384;
const WINDOW = 256;
const EXPERT_TOKENS_MIN = 4;
const FILE = 'model.safetensors';

/**
 * @throws `invalid_request` where the folder is there already, the model is quantised already, or the text leaves an expert with too few tokens;
 * `invalid_checkpoint`; `cancelled`. What was written until then is taken away
 */
export async function quantizeModel(options: QuantizeOptions): Promise<Quantized> {
  const folder = resolveModel(options.model);
  using checkpoint = openCheckpoint(folder);
  const { config } = checkpoint;
  if (config.quantization !== undefined) throw refuse('model', `${options.model} is quantised already; give the checkpoint that it was made from`);
  if (existsSync(options.out) && (!statSync(options.out).isDirectory() || readdirSync(options.out).length > 0))
    throw refuse('out', `${options.out} is there already; give a folder that is to be made`);
  const tokenizer = await loadTokenizer(folder);
  const context = Math.min(options.window ?? WINDOW, config.maxPositions);
  const max_tokens = options.max_tokens ?? TOKENS_MAX;
  const cut = cutText(options.text, tokenizer, context, { skip_tokens: options.skip_tokens, max_tokens, stride: context - 1 });
  const calibration = new Calibration(await BareModel.open(folder, context), cut.windows);
  const isNew = !existsSync(options.out);
  makeFolder(options.out);
  try {
    const report = await new ModelQuantizer(checkpoint, calibration, options).run();
    copyOtherFiles(folder, options.out);
    writeFileSync(join(options.out, 'config.json'), `${JSON.stringify(quantizedConfig(folder, checkpoint), null, 2)}\n`);
    return { out: options.out, tokens: cut.tokens, ...report };
  } catch (error) {
    if (isNew) rmSync(options.out, { recursive: true, force: true });
    else for (const name of readdirSync(options.out)) rmSync(join(options.out, name), { force: true });
    throw error;
  }
}

/** One folder after the other: where none can be made, as in /proc, Node's own way of making all of them never ends. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  try {
    mkdirSync(path);
  } catch (error) {
    throw refuse('out', `${path} cannot be made: ${(error as Error).message}`);
  }
}

const refuse = (param: string, why: string): MinipodError => new MinipodError('invalid_request', `${param}: ${why}`, { param });

/** MTP layers are drafted with as they are. */
const willQuantize = ({ part, loaded }: Pick<PlacedTensor, 'part' | 'loaded'>): boolean => loaded && isQuantizable(part);

class ModelQuantizer {
  readonly #checkpoint: Checkpoint;
  readonly #calibration: Calibration;
  readonly #options: QuantizeOptions;
  readonly #parts: ReadonlyMap<string, PlacedTensor>;

  constructor(checkpoint: Checkpoint, calibration: Calibration, options: QuantizeOptions) {
    this.#checkpoint = checkpoint;
    this.#calibration = calibration;
    this.#options = options;
    this.#parts = new Map(checkpoint.parts.map((part) => [part.name, part]));
  }

  async run(): Promise<Omit<Quantized, 'out' | 'tokens'>> {
    const { config, parts } = this.#checkpoint;
    const { smoothing = true, compensation = true, signal, onProgress } = this.#options;
    using file = new QuantizedFile(
      join(this.#options.out, FILE),
      parts.flatMap((placed) => planOf(placed, smoothing)),
    );
    const multiplied = await RowProducts.create();
    const coverage: Coverage[] = [];
    const errors: ProductErrors[] = [];
    const written = new Set<string>();
    for (let layer = 0; layer < config.layers; layer++) {
      const inputs = await this.#calibration.layer(layer);
      if (isMoeLayer(config, layer)) coverage.push(this.#coverageOf(layer, inputs));
      const quantizer = new LayerQuantizer(config, layer, (name) => this.#read(name), { smoothing, compensation }, multiplied);
      const found = quantizer.quantize(inputs);
      errors.push(...found.errors);
      for (const name of this.#write(file, found)) written.add(name);
      onProgress?.(layer + 1, config.layers);
      if (signal?.aborted) throw new MinipodError('cancelled', 'quantising was stopped');
    }
    for (const { name, tensor } of parts) {
      if (written.has(name)) continue;
      const bytes = new Uint8Array(tensor.bytes);
      this.#checkpoint.readInto(tensor, bytes);
      file.write(name, bytes);
    }
    file.end();
    const quantized = parts.filter(willQuantize);
    const weights_before = quantized.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 2), 0);
    const weights = quantized.reduce((sum, { shape: [outputs = 0, inputs = 0] }) => sum + outputs * inputs + outputs * 4, 0);
    const file_before = [...this.#checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
    return { coverage, products: errors.map(reportOf), bytes: { weights_before, weights, file_before, file: file.bytes } };
  }

  #read(name: string): Matrix {
    const part = this.#parts.get(name);
    assert(part, `the checkpoint was checked and has no ${name}`);
    return readMatrix(this.#checkpoint, part.tensor);
  }

  #write(file: QuantizedFile, { quantized, rescaled }: QuantizedLayer): string[] {
    for (const [name, { q, scales }] of quantized) {
      file.write(name, new Uint8Array(q.buffer));
      file.write(scaleOf(name), new Uint8Array(scales.buffer));
    }
    for (const [name, values] of rescaled) file.write(name, narrowed(values, this.#storedAs(name)));
    return [...quantized.keys(), ...rescaled.keys()];
  }

  #storedAs(name: string): Dtype {
    const placed = this.#parts.get(name);
    assert(placed, `the checkpoint was checked and has no ${name}`);
    return keptAs(placed, this.#options.smoothing ?? true);
  }

  #coverageOf(layer: number, { experts }: LayerInputs): Coverage {
    const counts = experts.map(({ indices }) => indices.length).sort((a, b) => a - b);
    const least = counts[0] ?? 0;
    const needed = this.#options.expert_tokens_min ?? EXPERT_TOKENS_MIN;
    if (least < needed) {
      const few = experts.findIndex(({ indices }) => indices.length === least);
      throw refuse(
        'text',
        `${this.#calibration.rows} tokens leave expert ${few} of layer ${layer} with ${least}, and ${needed} are needed; ` +
          `${counts.filter((count) => count < needed).length} of its ${experts.length} experts have too few: give more text, or take more of it (max_tokens)`,
      );
    }
    return { layer, least, median: counts[counts.length >> 1] ?? 0, most: counts.at(-1) ?? 0 };
  }
}

/** A router that is smoothed with what it reads stays in float32, so that it chooses as before: factors are no powers of two. */
const keptAs = ({ name, part, loaded, tensor }: PlacedTensor, smoothing: boolean): Dtype =>
  smoothing && loaded && part.kind === 'router' && name.endsWith('.weight') ? 'F32' : tensor.dtype;

const planOf = (placed: PlacedTensor, smoothing: boolean): TensorPlan[] => {
  const { name, shape } = placed;
  if (!willQuantize(placed)) return [{ name, shape, dtype: keptAs(placed, smoothing) }];
  return [
    { name, shape, dtype: 'I8' },
    { name: scaleOf(name), shape: [shape[0] ?? 0, 1], dtype: 'F32' },
  ];
};

const reportOf = ({ layer, product, alpha, plain, smoothed, compensated }: ProductErrors): ProductReport => ({
  ...{ layer, product, alpha },
  ...{ plain: relativeError(plain), smoothed: relativeError(smoothed), compensated: relativeError(compensated) },
});

/** The file's own fields as they were, and what of the model is quantised. Whoever reads it takes all that is linear and not named for INT8. */
function quantizedConfig(folder: string, { parts, config }: Checkpoint): object {
  const linear = parts.filter((placed) => placed.shape.length === 2 && placed.part.kind !== 'embedding' && !willQuantize(placed));
  const ignore = [...linear.map(({ name }) => layerOf(name)), ...(config.tieWordEmbeddings ? ['lm_head'] : [])];
  return { ...(readJsonFile(join(folder, 'config.json')) as object), quantization_config: quantizationConfig([...new Set(ignore)]) };
}

/** Tokenizer, chat template and all else that lies beside the weights. */
function copyOtherFiles(folder: string, out: string): void {
  for (const name of readdirSync(folder))
    if (name !== 'config.json' && !name.includes('.safetensors') && statSync(join(folder, name)).isFile()) copyFileSync(join(folder, name), join(out, name));
}
