/**
 * The frontend: turns a caller's call into sequences, checks what only the model can tell, and answers for the call until it has ended.
 * @module
 */
import type { ModelConfig } from '../../model/config.ts';
import type { Tokenizer } from '../../model/tokenizer.ts';
import type { GenerateCall, PromptRecord } from '../../protocol/caller.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { Sequence } from '../../protocol/messages.ts';
import type { TextTerms } from '../../protocol/output.ts';
import type { ChatMessage } from '../../protocol/prompt.ts';
import { BANNED_MAX, BIAS_MAX } from '../layouts/npu-layout.ts';
import type { KeptContext } from './contexts.ts';
import { readsTools } from './parsers/formats.ts';

/** `kv_positions`: what the KV blocks of an NPU hold. @throws `invalid_request`, `context_length_exceeded` */
export function sequencesOf(call: GenerateCall, context: KeptContext | null, config: ModelConfig, tokenizer: Tokenizer, kv_positions: number): Sequence[] {
  const prompt = context === null ? tokenize(call.prompt, call.add_special_tokens, config, tokenizer) : goOnFrom(context, call.prompt, config, tokenizer);
  checkPrompt(prompt, config);
  const { sampling } = call;
  const room = config.maxPositions - prompt.length;
  // Who names no number gets what there is room for; a prompt alone that is too large is refused where its blocks are.
  const max_tokens = call.max_tokens < 0 ? Math.max(Math.min(room, kv_positions - prompt.length), Math.min(room, 1)) : call.max_tokens;
  if (room < 1 || max_tokens > room)
    throw new MinipodError(
      'context_length_exceeded',
      `the model's context length is ${config.maxPositions} tokens; the prompt has ${prompt.length}${call.max_tokens < 0 ? '' : ` and max_tokens asks for ${max_tokens}`}`,
      { param: room < 1 ? 'prompt' : 'max_tokens' },
    );
  if (sampling.min_tokens > max_tokens)
    throw new MinipodError('invalid_request', `min_tokens: ${sampling.min_tokens} is more than max_tokens, ${max_tokens}`, { param: 'min_tokens' });
  const stop_token_ids = [...new Set([...(call.ignore_eos ? [] : config.eosTokenIds), ...sampling.stop_token_ids])];
  checkTokenIds(stop_token_ids, config, 'stop_token_ids', BANNED_MAX);
  checkTokenIds(sampling.bias_ids, config, 'logit_bias', BIAS_MAX);
  const text = textTerms(call, prompt, tokenizer);
  return Array.from({ length: call.n }, (_, choice) => ({
    request: call.request,
    choice,
    prompt,
    max_tokens,
    // The prompt is scored once, with the first choice.
    sampling: { ...sampling, stop_token_ids, prompt_logprobs: choice === 0 ? sampling.prompt_logprobs : -1 },
    cache_salt: call.cache_salt,
    data_parallel_rank: call.data_parallel_rank,
    priority: call.priority,
    context: context?.key ?? '',
    output: [],
    held: null,
    drafts: call.drafts,
    text,
  }));
}

/** Of a prompt, where its reasoning may have been opened: what a template writes for that is no longer. */
const PROMPT_TAIL_TOKENS = 32;

function textTerms(
  { stop, skip_special_tokens, reasoning_parser, tool_call_parser, prompt }: GenerateCall,
  ids: readonly number[],
  tokenizer: Tokenizer,
): TextTerms {
  const { tools } = readsTools(tool_call_parser) ? (JSON.parse(prompt.variables || '{}') as { tools?: readonly object[] | null }) : {};
  return {
    stop,
    // Marks that are special tokens have to be in the text that is parsed.
    skip_special_tokens: skip_special_tokens && reasoning_parser === '' && tool_call_parser === '',
    reasoning_parser,
    tool_call_parser,
    tools: tools ? JSON.stringify(tools) : '',
    prompt_tail: reasoning_parser === '' ? '' : tokenizer.decode(ids.slice(-PROMPT_TAIL_TOKENS), { skipSpecialTokens: false }),
  };
}

/** The tokens of a prompt that is to be kept. @throws `invalid_request`, `context_length_exceeded` */
export function contextTokens(prompt: PromptRecord, addSpecialTokens: boolean, config: ModelConfig, tokenizer: Tokenizer): readonly number[] {
  const tokens = prompt.kind === 'chat' ? chatTokens([prompt], false, config, tokenizer) : tokenize(prompt, addSpecialTokens, config, tokenizer);
  checkPrompt(tokens, config);
  if (tokens.length >= config.maxPositions)
    throw new MinipodError('context_length_exceeded', `the model's context length is ${config.maxPositions} tokens; the prompt has ${tokens.length}`, {
      param: 'prompt',
    });
  return tokens;
}

/** A conversation goes on after the context's messages, by the template; anything else follows the context's tokens. */
function goOnFrom(context: KeptContext, prompt: PromptRecord, config: ModelConfig, tokenizer: Tokenizer): readonly number[] {
  if (prompt.kind === 'chat' && context.prompt.kind === 'chat') return chatTokens([context.prompt, prompt], true, config, tokenizer);
  return [...context.tokens, ...tokenize(prompt, false, config, tokenizer)];
}

/** One conversation, said in several parts; of a template's variables the last part's count. */
function chatTokens(parts: readonly PromptRecord[], addGenerationPrompt: boolean, config: ModelConfig, tokenizer: Tokenizer): number[] {
  const said = parts.map((part) => part.messages.map((message): ChatMessage => JSON.parse(message)));
  // Those of a context were looked at when it was made.
  tokenizer.checkChatRoles(said.at(-1) ?? []);
  const messages = said.flat();
  const variables = Object.assign({}, ...parts.map((part) => JSON.parse(part.variables)));
  const text = tokenizer.renderChatTemplate(messages, { addGenerationPrompt, variables });
  checkLength(text, config, tokenizer);
  // The template has written bos itself.
  return tokenizer.encode(text, { addSpecialTokens: false });
}

/** The ids of a prompt. @throws `invalid_request`, `context_length_exceeded` */
export function tokenize(prompt: PromptRecord, addSpecialTokens: boolean, config: ModelConfig, tokenizer: Tokenizer): readonly number[] {
  switch (prompt.kind) {
    case 'tokens':
      return prompt.tokens;
    case 'text':
      checkLength(prompt.text, config, tokenizer);
      return tokenizer.encode(prompt.text, { addSpecialTokens });
    case 'chat':
      return chatTokens([prompt], true, config, tokenizer);
  }
}

/** UTF-16 units that NFC may turn into one. */
const NORMALISED_SHRINK_MAX = 4;

const longestTokens = new WeakMap<Tokenizer, number>();

/** Bytes of the vocabulary's longest token. */
function longestToken(tokenizer: Tokenizer): number {
  let longest = longestTokens.get(tokenizer);
  if (longest === undefined) {
    longest = 1;
    for (let id = 0; id < tokenizer.vocabSize; id++) longest = Math.max(longest, tokenizer.tokenBytes(id).length);
    longestTokens.set(tokenizer, longest);
  }
  return longest;
}

/** Refuses a text that no tokenization fits into the context before the control thread spends seconds on tokenizing it. */
function checkLength({ length: characters }: string, { maxPositions }: ModelConfig, tokenizer: Tokenizer): void {
  if (characters <= maxPositions) return;
  const fewest = Math.ceil(characters / NORMALISED_SHRINK_MAX / longestToken(tokenizer));
  if (fewest > maxPositions)
    throw new MinipodError(
      'context_length_exceeded',
      `the model's context length is ${maxPositions} tokens; the prompt's ${characters} characters are at least ${fewest}`,
      {
        param: 'prompt',
      },
    );
}

/** @throws `invalid_request` for a DP group in which no request can begin */
export function checkRank(rank: number, groups: readonly number[]): void {
  if (rank < 0 || groups.includes(rank)) return;
  const where = groups.length === 1 ? `all begin in ${groups[0]}` : `they begin in ${groups.slice(0, -1).join(', ')} and ${groups.at(-1)}`;
  throw new MinipodError('invalid_request', `data_parallel_rank: no request begins in DP group ${rank}; ${where}`, { param: 'data_parallel_rank' });
}

function checkPrompt(prompt: readonly number[], config: ModelConfig): void {
  if (prompt.length === 0) throw new MinipodError('invalid_request', 'prompt: is empty; give at least one token', { param: 'prompt' });
  checkTokenIds(prompt, config, 'prompt', Number.POSITIVE_INFINITY);
}

function checkTokenIds(ids: readonly number[], { vocabSize }: ModelConfig, param: string, count_max: number): void {
  if (ids.length > count_max) throw new MinipodError('invalid_request', `${param}: ${ids.length} tokens, at most ${count_max} are possible`, { param });
  const foreign = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (foreign !== undefined) throw new MinipodError('invalid_request', `${param}: token id ${foreign} is not in the vocabulary of ${vocabSize}`, { param });
}
