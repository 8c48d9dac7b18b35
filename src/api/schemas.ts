/**
 * What the routes accept, strict on types and ranges, lenient on fields that they do not know where clients of others may send them. null means absent, as in vLLM.
 * @module
 */
import * as z from 'zod';
import { contextOptionsSchema } from '../options/context-options.ts';
import { type GenerateOptions, generateOptionsSchema, LIMITS } from '../options/options.ts';
import { firstIssue, inWords } from '../protocol/value-words.ts';
import type { JsonObject } from './body.ts';
import { ApiError, invalid } from './errors.ts';
import { refuseHalves } from './kv-transfer.ts';
import { conversationShape, messagesSchema, toolChoiceSchema } from './messages.ts';

/** Named limits of one HTTP request, beside those of the options. */
export const API_LIMITS = {
  /** Prompts × choices of one /v1/completions. */
  choices_max: 2048,
} as const;

const tokenId = z.int().min(0).max(0xffff_ffff);

const sampling = generateOptionsSchema.pick({
  min_tokens: true,
  temperature: true,
  top_p: true,
  top_k: true,
  min_p: true,
  seed: true,
  stop: true,
  stop_token_ids: true,
  ignore_eos: true,
  prompt_logprobs: true,
  logit_bias: true,
  presence_penalty: true,
  frequency_penalty: true,
  repetition_penalty: true,
  n: true,
  cache_salt: true,
  context_id: true,
  priority: true,
  deadline_ms: true,
  add_special_tokens: true,
  skip_special_tokens: true,
  speculative_decoding: true,
}).shape;

const common = {
  ...sampling,
  model: z.string().optional(),
  user: z.string().optional(),
  stream: z.boolean().default(false),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).optional(),
  return_token_ids: z.boolean().default(false),
  kv_transfer_params: z.record(z.string(), z.unknown()).optional(),
  return_tokens_as_token_ids: z.boolean().default(false),
};

export const completionSchema = z.object({
  ...common,
  prompt: z.unknown().optional(),
  max_tokens: z.int().min(0).optional(),
  logprobs: z.int().min(0).max(LIMITS.logprobs_max).optional(),
  echo: z.boolean().default(false),
  best_of: z.int().min(1).max(LIMITS.choices_max).optional(),
});
export type CompletionRequest = z.output<typeof completionSchema>;

export const chatSchema = z.object({
  ...common,
  ...conversationShape,
  messages: messagesSchema,
  tool_choice: toolChoiceSchema.optional(),
  parallel_tool_calls: z.boolean().default(true),
  include_reasoning: z.boolean().default(true),
  max_tokens: z.int().min(1).optional(),
  max_completion_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().default(false),
  top_logprobs: z.int().min(0).max(LIMITS.logprobs_max).optional(),
});
export type ChatRequest = z.output<typeof chatSchema>;

const context = contextOptionsSchema.shape;
/** Strict, since no client of OpenAI or vLLM knows it: who names the time it has as a program does would have a context that is never over. */
export const contextSchema = z
  .strictObject({
    model: z.string().optional(),
    prompt: z.unknown().optional(),
    messages: messagesSchema.optional(),
    ...conversationShape,
    id: context.id,
    ttl_seconds: context.expires_s,
    cache_salt: context.cache_salt,
    add_special_tokens: context.add_special_tokens,
  })
  .refine(({ prompt, messages: chat }) => (prompt === undefined) !== (chat === undefined), {
    error: 'either prompt or messages must be given, and not both',
    path: ['prompt'],
  })
  .refine(({ messages: chat, tools }) => chat !== undefined || tools.length === 0, { error: 'only together with messages', path: ['tools'] })
  .refine(({ messages: chat, chat_template_kwargs }) => chat !== undefined || Object.keys(chat_template_kwargs).length === 0, {
    error: 'only together with messages',
    path: ['chat_template_kwargs'],
  });

export const tokenizeSchema = z
  .object({
    model: z.string().optional(),
    prompt: z.string().optional(),
    messages: messagesSchema.optional(),
    ...conversationShape,
    add_special_tokens: z.boolean().default(true),
    return_token_strs: z.boolean().default(false),
  })
  .refine(({ prompt, messages: chat }) => (prompt === undefined) !== (chat === undefined), {
    error: 'either prompt or messages must be given, and not both',
    path: ['prompt'],
  });

export const detokenizeSchema = z.object({ model: z.string().optional(), tokens: z.array(tokenId) });

/** Throws 400 that names the first field at fault and what it should be. */
export function parseRequest<Schema extends z.ZodType>(schema: Schema, body: JsonObject): z.output<Schema> {
  const present = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  const result = schema.safeParse(present, inWords);
  if (result.success) return result.data;
  const { path, message } = firstIssue(result.error.issues);
  const param = path.reduce<string>(
    (before, key) => (typeof key === 'number' ? `${before}[${key}]` : before === '' ? String(key) : `${before}.${String(key)}`),
    '',
  );
  throw new ApiError(400, `${param || 'body'}: ${message}`, { param: param || null });
}

/** The sampling options of a request, in the pod's terms: what both routes pass on unchanged. */
export function generateOptions(request: CompletionRequest | ChatRequest): GenerateOptions {
  const { min_tokens, temperature, top_p, top_k, min_p, seed, stop, stop_token_ids, ignore_eos, prompt_logprobs } = request;
  const { logit_bias, presence_penalty, frequency_penalty, repetition_penalty, n, cache_salt, context_id, priority, deadline_ms, add_special_tokens } = request;
  const { skip_special_tokens, speculative_decoding } = request;
  return {
    ...{ min_tokens, temperature, top_p, top_k, min_p, seed, stop, stop_token_ids, ignore_eos, prompt_logprobs },
    ...{ logit_bias, presence_penalty, frequency_penalty, repetition_penalty, n, cache_salt, context_id, priority, deadline_ms, add_special_tokens },
    ...{ skip_special_tokens, speculative_decoding },
  };
}

/** Rules of both routes that no single field's type can say. */
export function checkTogether(request: CompletionRequest | ChatRequest, vocabSize: number): void {
  refuseHalves(request.kv_transfer_params);
  if (request.stream_options !== undefined && !request.stream) throw invalid('stream_options', 'only together with stream: true');
  if (request.stream && request.prompt_logprobs !== undefined) throw invalid('prompt_logprobs', 'not available in a stream');
  const max_tokens = 'max_completion_tokens' in request ? (request.max_completion_tokens ?? request.max_tokens) : request.max_tokens;
  if (max_tokens !== undefined && request.min_tokens > Math.max(max_tokens, 1)) throw invalid('min_tokens', `must be at most max_tokens (${max_tokens})`);
  for (const id of Object.keys(request.logit_bias))
    if (Number(id) >= vocabSize) throw invalid(`logit_bias.${id}`, `must be a token id, an integer from 0 to ${vocabSize - 1}`);
}
