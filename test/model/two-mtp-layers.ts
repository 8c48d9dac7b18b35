/** The shipped checkpoint with a second MTP layer: a copy of its first one in which the last bits of each weight are others, so that it drafts a little else. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readJson, safetensors, TINY } from './checkpoint-folder.ts';

type Tensor = { readonly dtype: string; readonly shape: readonly number[]; readonly data_offsets: readonly [number, number] };

const LAYERS = 5;
/** Of BF16's seven bits of a fraction. */
const OTHER_BITS = 3;

/** Gives the folder. */
export function twoMtpLayers(folder: string): string {
  const like = TINY['tiny-deepseek-v3'];
  mkdirSync(folder, { recursive: true });
  for (const file of ['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) cpSync(join(like, file), join(folder, file));
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...readJson(like, 'config.json'), num_nextn_predict_layers: 2 }));
  const file = readFileSync(join(like, 'model.safetensors'));
  const end = 8 + Number(file.readBigUInt64LE(0));
  const header: Record<string, Tensor> = JSON.parse(file.toString('utf8', 8, end));
  const data = [file.subarray(end)];
  let length = file.length - end;
  for (const [name, tensor] of Object.entries(header)) {
    if (!name.startsWith(`model.layers.${LAYERS}.`)) continue;
    const [from, to] = tensor.data_offsets;
    const copy = Buffer.from(file.subarray(end + from, end + to));
    if (tensor.dtype === 'BF16')
      for (let at = 0; at < copy.length; at += 2) copy[at] = (copy[at] as number) ^ (Math.imul(at + 1, 0x9e3779b1) >>> (32 - OTHER_BITS));
    header[name.replace(`.${LAYERS}.`, `.${LAYERS + 1}.`)] = { ...tensor, data_offsets: [length, length + copy.length] };
    data.push(copy);
    length += copy.length;
  }
  writeFileSync(join(folder, 'model.safetensors'), safetensors(header, Buffer.concat(data)));
  return folder;
}
