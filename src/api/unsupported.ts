/**
 * Fields that clients of OpenAI and vLLM know and that would change the answer, but that minipod does not serve: refused unless they ask for nothing.
 * A field that nobody here knows is ignored, as vLLM does.
 * @module
 */
import type { JsonObject } from './body.ts';
import { ApiError } from './errors.ts';

type AsksForNothing = (value: unknown) => boolean;

const isEmpty: AsksForNothing = (value) =>
  value === '' || (Array.isArray(value) && value.length === 0) || (typeof value === 'object' && Object.keys(value ?? {}).length === 0);
const is =
  (neutral: unknown): AsksForNothing =>
  (value) =>
    value === neutral;
const isTextFormat: AsksForNothing = (value) => typeof value === 'object' && value !== null && 'type' in value && value.type === 'text';
const isTextOnly: AsksForNothing = (value) => Array.isArray(value) && value.every((one) => one === 'text');

const EVERYWHERE: Readonly<Record<string, AsksForNothing>> = {
  allowed_token_ids: isEmpty,
  bad_words: isEmpty,
  guided_choice: isEmpty,
  guided_grammar: isEmpty,
  guided_json: isEmpty,
  guided_regex: isEmpty,
  include_stop_str_in_output: is(false),
  logits_processors: isEmpty,
  response_format: isTextFormat,
  structured_outputs: isEmpty,
  truncate_prompt_tokens: () => false,
  use_beam_search: is(false),
};

const COMPLETIONS: Readonly<Record<string, AsksForNothing>> = { ...EVERYWHERE, suffix: isEmpty, prompt_embeds: isEmpty };

const CHAT: Readonly<Record<string, AsksForNothing>> = {
  ...EVERYWHERE,
  add_generation_prompt: is(true),
  audio: isEmpty,
  chat_template: isEmpty,
  continue_final_message: is(false),
  documents: isEmpty,
  echo: is(false),
  function_call: is('none'),
  functions: isEmpty,
  modalities: isTextOnly,
};

function refuse(body: JsonObject, fields: Readonly<Record<string, AsksForNothing>>): void {
  for (const [field, asksForNothing] of Object.entries(fields)) {
    const value = body[field];
    if (value === undefined || value === null || asksForNothing(value)) continue;
    throw new ApiError(400, `${field}: not supported by this server; leave it out${field === 'response_format' ? ' or ask for {"type": "text"}' : ''}.`, {
      param: field,
      code: 'unsupported_parameter',
    });
  }
}

export const refuseUnsupportedInCompletions = (body: JsonObject): void => refuse(body, COMPLETIONS);

export const refuseUnsupportedInChat = (body: JsonObject): void => refuse(body, CHAT);
