/**
 * A real pod whose model can be made to say a text of the test's choosing: its tokenizer has the text's pieces for tokens, and a request's own sampling options
 * (`logit_bias`, falling from piece to piece, and `repetition_penalty`, which takes each out once it is said) bring them in order. So a reply with tool calls
 * goes the whole way: sampled, through the ring, detokenized, parsed, and over HTTP.
 * @module
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import { TINY } from '../model/checkpoint-folder.ts';

/** Ordinary tokens of the vocabulary, of which the pieces take the place. */
const FIRST_ID = 1_900;
/** More than what one of the shipped model's logits has over another. */
const BIAS_STEP = 18;
export const PIECES_MAX = 4;

export type SpokenPod = AsyncDisposable & { readonly pod: Pod; say(...pieces: readonly string[]): object };

/** `pieces`: what it can be made to say; those in `special` are special tokens. */
export async function spokenPod(template: string, pieces: readonly string[], special: readonly string[] = [], options: PodOptions = {}): Promise<SpokenPod> {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-spoken-'));
  const from = TINY['tiny-deepseek-v3'];
  for (const file of ['config.json', 'generation_config.json']) cpSync(join(from, file), join(folder, file));
  symlinkSync(join(from, 'model.safetensors'), join(folder, 'model.safetensors'));
  const tokenizer = JSON.parse(readFileSync(join(from, 'tokenizer.json'), 'utf8'));
  for (const [index, content] of pieces.entries())
    tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0], id: FIRST_ID + index, content, special: special.includes(content) });
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));
  const config = JSON.parse(readFileSync(join(from, 'tokenizer_config.json'), 'utf8'));
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ ...config, chat_template: template }));
  const [eos] = JSON.parse(readFileSync(join(from, 'generation_config.json'), 'utf8')).eos_token_id as number[];
  const pod = await createPod({ model: folder, ...options });
  return {
    pod,
    say: (...said) => {
      if (said.length > PIECES_MAX) throw new RangeError(`${said.length} pieces, at most ${PIECES_MAX}`);
      const bias = said.map((piece, index) => {
        if (!pieces.includes(piece)) throw new RangeError(`no piece ${piece}`);
        return [FIRST_ID + pieces.indexOf(piece), 100 - BIAS_STEP * index];
      });
      const logit_bias = Object.fromEntries([...bias, [eos, 100 - BIAS_STEP * said.length]]);
      return { temperature: 0, repetition_penalty: 10, logit_bias, max_tokens: said.length + 1 };
    },
    async [Symbol.asyncDispose]() {
      await pod.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
