/**
 * A call as it crosses to the pod: plain records, checked.
 * @module
 */
import type { ResolvedGenerateOptions } from './options.ts';
import type { GenerateCall, PromptRecord } from './protocol/caller.ts';
import { MinipodError } from './protocol/errors.ts';
import type { Sampling } from './protocol/messages.ts';
import type { ChatMessage, Conversation, Prompt } from './protocol/prompt.ts';

const NOT_ASKED = -1;

export function promptRecord(prompt: Prompt): PromptRecord {
  if (typeof prompt === 'string') return { kind: 'text', text: prompt, tokens: [], messages: [], variables: '' };
  if (isArray(prompt) && prompt.every((item): item is number => typeof item === 'number'))
    return { kind: 'tokens', text: '', tokens: [...prompt], messages: [], variables: '' };
  const { messages, tools, chat_template_kwargs } = isArray(prompt)
    ? { messages: prompt as readonly ChatMessage[] }
    : ((prompt ?? {}) as Partial<Conversation>);
  if (!isArray(messages))
    throw new MinipodError('invalid_request', 'prompt: must be a text, an array of token ids, an array of messages, or an object with messages', {
      param: 'prompt',
    });
  for (const [index, message] of messages.entries()) checkMessage(message, `messages.${index}`);
  checkTools(tools, 'tools');
  checkTools(chat_template_kwargs?.['tools'], 'chat_template_kwargs.tools');
  const variables = { ...chat_template_kwargs, ...(tools && tools.length > 0 && { tools }) };
  return { kind: 'chat', text: '', tokens: [], messages: messages.map((message) => JSON.stringify(message)), variables: JSON.stringify(variables) };
}

const isArray = (value: unknown): value is readonly unknown[] => Array.isArray(value);

/** The template and the parser of calls read whatever else there is; null, as in templates: none. */
function checkTools(tools: unknown, param: string): void {
  const isTool = (tool: unknown): boolean => typeof tool === 'object' && tool !== null && !isArray(tool);
  if ((tools ?? null) !== null && !(isArray(tools) && tools.every(isTool)))
    throw new MinipodError('invalid_request', `${param}: must be an array of objects, each a tool as {type: 'function', function: {name, parameters}}`, {
      param,
    });
}

/** The template reads whatever else there is. */
function checkMessage(message: ChatMessage, param: string): void {
  const fail = (rule: string): never => {
    throw new MinipodError('invalid_request', `${param}: ${rule}`, { param });
  };
  const calls = message?.tool_calls ?? [];
  if (typeof message?.role !== 'string' || typeof (message.content ?? '') !== 'string') fail('must have role and content, both strings');
  if (!isArray(calls) || calls.some((call) => typeof call?.function?.name !== 'string' || typeof call.function.arguments !== 'string'))
    fail('tool_calls must be calls with function.name and function.arguments, both strings');
  if (typeof message.content !== 'string' && calls.length === 0) fail('must have role and content, both strings');
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
    skip_special_tokens: options.skip_special_tokens,
    reasoning_parser: options.reasoning_parser ?? '',
    tool_call_parser: options.tool_call_parser ?? '',
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
    drafts: options.speculative_decoding,
  };
}
