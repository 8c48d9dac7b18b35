/**
 * The prompts of /v1/completions: text or token ids, one or several.
 * @module
 */
import type { Pod } from '../pod.ts';
import { invalid } from './errors.ts';
import { API_LIMITS } from './schemas.ts';

export type TextOrIds = string | readonly number[];

const SHAPES = 'must be a string, an array of strings, an array of token ids, or an array of arrays of token ids';

export function parsePrompts(value: unknown, vocabSize: number): TextOrIds[] {
  if (value === undefined) throw invalid('prompt', `is required and ${SHAPES}`);
  if (typeof value === 'string') return [value];
  if (!Array.isArray(value)) throw invalid('prompt', SHAPES);
  if (value.length === 0) throw invalid('prompt', 'must not be empty');
  if (typeof value[0] === 'number') return [tokenIds(value, 'prompt', vocabSize)];
  if (value.length > API_LIMITS.choices_max) throw invalid('prompt', `must hold at most ${API_LIMITS.choices_max} prompts`);
  if (typeof value[0] === 'string') {
    for (const one of value) if (typeof one !== 'string') throw invalid('prompt', SHAPES);
    return value;
  }
  return value.map((one, index) => tokenIds(one, `prompt[${index}]`, vocabSize));
}

function tokenIds(value: unknown, param: string, vocabSize: number): number[] {
  if (!Array.isArray(value)) throw invalid(param, SHAPES);
  if (value.length === 0) throw invalid(param, 'must hold at least one token id');
  for (let i = 0; i < value.length; i++) {
    const id = value[i];
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) throw invalid(`${param}[${i}]`, `must be a token id, an integer from 0 to ${vocabSize - 1}`);
  }
  return value;
}

/** OpenAI's and vLLM's default where a completion does not say. */
const MAX_TOKENS_DEFAULT = 16;

/** 16, or what the context leaves where that is less: a default must not be what makes a prompt too long. */
export async function defaultMaxTokens(pod: Pod, prompts: readonly TextOrIds[], context_tokens: number, add_special_tokens: boolean): Promise<number> {
  const room = pod.model.context_length - context_tokens;
  let left = Math.min(MAX_TOKENS_DEFAULT, room);
  for (const prompt of prompts) left = Math.min(left, room - (await promptLengthIfLong(pod, prompt, context_tokens, add_special_tokens)));
  return Math.max(left, 1);
}

async function promptLengthIfLong(pod: Pod, prompt: TextOrIds, context_tokens: number, add_special_tokens: boolean): Promise<number> {
  if (typeof prompt !== 'string') return prompt.length;
  // A token is a byte at least, and a UTF-16 unit three bytes at most: most prompts are too short to matter and need no counting.
  if (context_tokens + 3 * prompt.length + MAX_TOKENS_DEFAULT < pod.model.context_length) return 0;
  return (await pod.tokenize(prompt, { add_special_tokens })).token_ids.length;
}
