/**
 * A call as it crosses to the pod: plain records, checked.
 * @module
 */
import type { ChatMessage, Prompt, ResolvedGenerateOptions } from './options.ts';
import type { GenerateCall, PromptRecord } from './protocol/caller.ts';
import { MinipodError } from './protocol/errors.ts';
import type { Sampling } from './protocol/messages.ts';

const NOT_ASKED = -1;

export function promptRecord(prompt: Prompt): PromptRecord {
  if (typeof prompt === 'string') return { kind: 'text', text: prompt, tokens: [], roles: [], contents: [] };
  if (!Array.isArray(prompt))
    throw new MinipodError('invalid_request', 'prompt: must be a text, an array of token ids or an array of messages', { param: 'prompt' });
  if (prompt.every((item): item is number => typeof item === 'number')) return { kind: 'tokens', text: '', tokens: [...prompt], roles: [], contents: [] };
  const messages = prompt as readonly ChatMessage[];
  for (const [index, message] of messages.entries()) {
    if (typeof message?.role !== 'string' || typeof message.content !== 'string')
      throw new MinipodError('invalid_request', `messages.${index}: must have role and content, both strings`, { param: `messages.${index}` });
  }
  return { kind: 'chat', text: '', tokens: [], roles: messages.map(({ role }) => role), contents: messages.map(({ content }) => content) };
}

export function samplingRecord(options: ResolvedGenerateOptions, seed: number): Sampling {
  const bias = Object.entries(options.logit_bias).map(([id, value]) => [Number(id), value] as const);
  return {
    temperature: options.temperature,
    top_p: options.top_p,
    top_k: options.top_k,
    min_p: options.min_p,
    seed,
    min_tokens: options.min_tokens,
    stop_token_ids: options.stop_token_ids,
    logprobs: options.logprobs ?? NOT_ASKED,
    prompt_logprobs: options.prompt_logprobs ?? NOT_ASKED,
    bias_ids: bias.map(([id]) => id),
    bias_values: bias.map(([, value]) => value),
    presence_penalty: options.presence_penalty,
    frequency_penalty: options.frequency_penalty,
    repetition_penalty: options.repetition_penalty,
  };
}

export function generateCall(request: number, prompt: PromptRecord, options: ResolvedGenerateOptions, seed: number): GenerateCall {
  return {
    type: 'GENERATE',
    request,
    prompt,
    add_special_tokens: options.add_special_tokens,
    n: options.n,
    max_tokens: options.max_tokens ?? NOT_ASKED,
    ignore_eos: options.ignore_eos,
    stop: options.stop,
    sampling: samplingRecord(options, seed),
    cache_salt: options.cache_salt,
    data_parallel_rank: options.data_parallel_rank ?? NOT_ASKED,
    priority: options.priority,
    deadline_ms: options.deadline_ms ?? NOT_ASKED,
    context_id: options.context_id,
  };
}
