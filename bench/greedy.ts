/** Sampling parameters that ask for nothing. @module */
import type { Sampling } from '../src/protocol/messages.ts';

export const GREEDY: Sampling = {
  temperature: 0,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  seed: 0,
  min_tokens: 0,
  stop_token_ids: [],
  logprobs: -1,
  prompt_logprobs: -1,
  bias_ids: [],
  bias_values: [],
  presence_penalty: 0,
  frequency_penalty: 0,
  repetition_penalty: 1,
};
