/**
 * A call as it crosses to the pod: plain records, checked.
 * @module
 */
import * as z from 'zod';
import { parseOptions, type ResolvedGenerateOptions, tokenId } from '../options/options.ts';
import type { GenerateCall, PromptRecord } from '../protocol/caller.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Sampling } from '../protocol/messages.ts';
import type { ChatMessage, Conversation, Prompt } from '../protocol/prompt.ts';

const NOT_ASKED = -1;

export function promptRecord(prompt: Prompt): PromptRecord {
  if (typeof prompt === 'string') {
    if (!prompt.isWellFormed()) throw invalid('prompt', LONE_SURROGATE);
    return { kind: 'text', text: prompt, tokens: [], messages: [], variables: '' };
  }
  // A copy has undefined where the original has gaps.
  const items: readonly unknown[] | null = isArray(prompt) ? [...prompt] : null;
  if (items?.every((item): item is number => typeof item === 'number')) return { kind: 'tokens', text: '', tokens: items, messages: [], variables: '' };
  const { messages, tools, chat_template_kwargs } = items === null ? ((prompt ?? {}) as Partial<Conversation>) : { messages: items as readonly ChatMessage[] };
  if (!isArray(messages)) throw invalid('prompt', 'must be a text, an array of token ids, an array of messages, or an object with messages');
  for (const [index, message] of messages.entries()) checkMessage(message, `messages.${index}`);
  if (!isObject(chat_template_kwargs ?? {})) throw invalid('chat_template_kwargs', "must be an object: variables of the model's chat template");
  checkTools(tools, 'tools');
  checkTools(chat_template_kwargs?.['tools'], 'chat_template_kwargs.tools');
  return {
    kind: 'chat',
    text: '',
    tokens: [],
    messages: messages.map((message, index) => jsonOf(message, `messages.${index}`)),
    variables: jsonOf({ ...chat_template_kwargs, ...(tools && tools.length > 0 && { tools }) }, 'tools or chat_template_kwargs'),
  };
}

const LONE_SURROGATE = 'has a lone surrogate (half of a character)';
const invalid = (param: string, rule: string): MinipodError => new MinipodError('invalid_request', `${param}: ${rule}`, { param });
const isArray = (value: unknown): value is readonly unknown[] => Array.isArray(value);
const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null && !isArray(value);

/** The template and the parser of calls read whatever else there is; null, as in templates: none. */
function checkTools(tools: unknown, param: string): void {
  if ((tools ?? null) !== null && !(isArray(tools) && tools.every(isObject)))
    throw invalid(param, "must be an array of objects, each a tool as {type: 'function', function: {name, parameters}}");
}

/** The template reads whatever else there is. */
function checkMessage(message: ChatMessage, param: string): void {
  const calls = message?.tool_calls ?? [];
  if (typeof message?.role !== 'string' || typeof (message.content ?? '') !== 'string') throw invalid(param, 'must have role and content, both strings');
  if (!isArray(calls) || calls.some((call) => typeof call?.function?.name !== 'string' || typeof call.function.arguments !== 'string'))
    throw invalid(param, 'tool_calls must be calls with function.name and function.arguments, both strings');
  if (typeof message.content !== 'string' && calls.length === 0) throw invalid(param, 'must have role and content, both strings');
}

function jsonOf(value: object, param: string): string {
  try {
    return JSON.stringify(value, (_, text: unknown) => {
      if (typeof text === 'string' && !text.isWellFormed()) throw invalid(param, LONE_SURROGATE);
      return text;
    });
  } catch (error) {
    if (error instanceof MinipodError) throw error;
    throw invalid(param, `cannot be told as JSON: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * @throws `invalid_request` where they are none, `context_length_exceeded` for more than a text of the model can have: on the control thread, which makes their
 * text, each million takes half a second in which nothing else begins
 */
export function tokenIdsOf(token_ids: readonly number[], context_length: number): number[] {
  if (isArray(token_ids) && token_ids.length > context_length)
    throw new MinipodError('context_length_exceeded', `token_ids: the model's context length is ${context_length} tokens; these are ${token_ids.length}`, {
      param: 'token_ids',
    });
  return parseOptions(z.object({ token_ids: z.array(tokenId) }), { token_ids }, 'detokenize').token_ids;
}

const kvEventsSchema = z.object({ dp_group: z.int(), from: z.int().min(0) });

/** @throws `invalid_request` where a DP group or a batch is named by what is no number of one */
export function checkKvEvents(dp_group: number, from: number): void {
  parseOptions(kvEventsSchema, { dp_group, from }, 'kvEvents');
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
