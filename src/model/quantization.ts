/**
 * Quantised checkpoints: INT8 weights with one scale an output channel, activations quantised a token at a time while the model computes (xDeepServe §4.7).
 * On disk they are as compressed-tensors has them, which vLLM reads: beside each INT8 `….weight` [out, in] its `….weight_scale` [out, 1], and in config.json
 *
 *   "quantization_config": { "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head", …],
 *     "config_groups": { "group_0": { "targets": ["Linear"], "weights": { …, "strategy": "channel" }, "input_activations": { …, "strategy": "token" } } } }
 * @module
 */
import * as z from 'zod';
import { MinipodError } from '../protocol/errors.ts';
import type { ConfigFields } from './config-fields.ts';
import { INT8_INPUTS_MAX } from './kernels/kernels.ts';
import type { StoredTensor } from './safetensors.ts';

export type Quantization = {
  readonly scheme: 'w8a8-int8';
  /** Names of layers that are not quantised, or patterns after `re:`, as the file has them. */
  readonly ignore: readonly string[];
};

const TOKEN = 'int-quantized compressed-tensors: INT8 weights, symmetric, one scale a channel, and INT8 activations, symmetric, dynamic, one scale a token';

const argumentsOf = (strategy: 'channel' | 'token') =>
  z.object({
    num_bits: z.literal(8),
    type: z.literal('int'),
    symmetric: z.literal(true),
    strategy: z.literal(strategy),
    dynamic: z.literal(strategy === 'token'),
  });

const group = z.object({
  targets: z.array(z.string()).min(1),
  weights: argumentsOf('channel'),
  input_activations: argumentsOf('token'),
  output_activations: z.null().optional(),
});

const PATTERN = 're:';

/** As compressed-tensors matches it: from the name's first character on. */
const patternOf = (text: string): RegExp => new RegExp(`^(?:${text.slice(PATTERN.length)})`);

function isPattern(text: string): boolean {
  try {
    return !text.startsWith(PATTERN) || patternOf(text) !== null;
  } catch {
    return false;
  }
}

/** What in the list names the layer. */
const ignoredBy = (layer: string, { ignore }: Quantization): string | undefined =>
  ignore.find((text) => (text.startsWith(PATTERN) ? patternOf(text).test(layer) : text === layer));

const schema = z.object({
  quant_method: z.literal('compressed-tensors'),
  format: z.literal('int-quantized'),
  config_groups: z.record(z.string(), group).refine((groups) => Object.keys(groups).length === 1, 'one group'),
  ignore: z.array(z.string().refine(isPattern, 'a name, or re: and a regular expression')).default([]),
  kv_cache_scheme: z.null('null: how KV is kept is an option of the pod, kv_cache_dtype').default(null),
  sparsity_config: z.null('null: sparse weights are not supported').optional(),
});

/** Throws `invalid_checkpoint` naming the field that is not as minipod computes. */
export function quantizationOf(value: unknown, fields: ConfigFields): Quantization {
  const method = (value as { quant_method?: unknown } | null)?.quant_method;
  if (method !== 'compressed-tensors') fields.fail('quantization_config.quant_method', `"compressed-tensors", ${TOKEN}`, JSON.stringify(method) ?? 'nothing');
  const { quantization_config } = fields.parse(z.object({ quantization_config: schema }), { quantization_config: value });
  return { scheme: 'w8a8-int8', ignore: quantization_config.ignore };
}

/** What config.json says of a checkpoint whose linear layers are INT8 but for those named. */
export const quantizationConfig = (ignore: readonly string[]): object => {
  const int8 = { num_bits: 8, type: 'int', symmetric: true, group_size: null, block_structure: null, actorder: null };
  return {
    quant_method: 'compressed-tensors',
    format: 'int-quantized',
    quantization_status: 'compressed',
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: { ...int8, strategy: 'channel', dynamic: false, observer: 'minmax', observer_kwargs: {} },
        input_activations: { ...int8, strategy: 'token', dynamic: true, observer: null, observer_kwargs: {} },
        output_activations: null,
      },
    },
    ignore,
    kv_cache_scheme: null,
    global_compression_ratio: null,
  };
};

/** Of a weight's name: that of its layer, and of its scale. */
export const layerOf = (weight: string): string => weight.replace(/\.weight$/, '');
export const scaleOf = (weight: string): string => `${layerOf(weight)}.weight_scale`;

/**
 * The scale of an INT8 weight.
 * Throws `invalid_checkpoint` naming file and tensor where it is missing or misshapen, or the weight cannot be INT8.
 */
export function checkQuantized(
  name: string,
  tensor: StoredTensor,
  tensors: ReadonlyMap<string, StoredTensor>,
  quantization: Quantization | undefined,
  isQuantizable: boolean,
): StoredTensor {
  const fail = (why: string, { file } = tensor): never => {
    throw new MinipodError('invalid_checkpoint', `${file}: tensor ${name}: ${why}`);
  };
  if (quantization === undefined) fail('is I8; expected quantization_config in config.json to say how it was quantised, found none');
  if (!isQuantizable) fail('expected BF16, F16 or F32, found I8: it is not among the weights that are quantised');
  const ignored = quantization && ignoredBy(layerOf(name), quantization);
  if (ignored !== undefined) fail(`is I8; expected BF16, F16 or F32, since quantization_config.ignore names ${ignored}`);
  const [rows = 0, inputs = 0] = tensor.shape;
  if (inputs > INT8_INPUTS_MAX) fail(`expected at most ${INT8_INPUTS_MAX} inputs, whose products are summed in 32 bits, found ${inputs}`);
  const scaleName = scaleOf(name);
  const scale = tensors.get(scaleName);
  if (scale === undefined) return fail(`is I8; expected its scales in ${scaleName}, found no such tensor`);
  const isShaped = scale.shape[0] === rows && (scale.shape.length === 1 || (scale.shape.length === 2 && scale.shape[1] === 1));
  if (!isShaped) throw new MinipodError('invalid_checkpoint', `${scale.file}: tensor ${scaleName}: expected shape [${rows},1], found [${scale.shape}]`);
  if (scale.dtype === 'I8') throw new MinipodError('invalid_checkpoint', `${scale.file}: tensor ${scaleName}: expected dtype F32, BF16 or F16, found I8`);
  return scale;
}

/** Scales as they are stored, widened. Throws `invalid_checkpoint` for the first that is not a positive number. */
export function checkScales(name: string, { file, dtype }: StoredTensor, bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = dtype === 'F32' ? 4 : 2;
  const scales = new Float32Array(bytes.byteLength / size);
  for (let index = 0; index < scales.length; index++) {
    const scale =
      dtype === 'F32' ? view.getFloat32(index * 4, true) : dtype === 'F16' ? view.getFloat16(index * 2, true) : widened(view.getUint16(index * 2, true));
    if (!(scale > 0 && scale < Number.POSITIVE_INFINITY))
      throw new MinipodError('invalid_checkpoint', `${file}: tensor ${name}: expected positive, finite scales, found ${scale} for output ${index}`);
    scales[index] = scale;
  }
  return scales;
}

const word = new DataView(new ArrayBuffer(4));

/** A BF16 is the upper half of a float. */
function widened(half: number): number {
  word.setUint32(0, half << 16);
  return word.getFloat32(0);
}
