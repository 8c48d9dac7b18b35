/**
 * A model's chat template: Jinja, as in tokenizer_config.json or chat_template.jinja.
 * @module
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { MinipodError } from '../protocol/errors.ts';
import type { ChatMessage, ToolCall } from '../protocol/prompt.ts';
import { reason } from './json-file.ts';

/** A conversation as the model was trained to read it. Throws `invalid_request` where the template refuses it. */
export type ChatTemplate = (messages: readonly ChatMessage[], options: ChatTemplateOptions) => string;
/** `variables`: the tools, and whatever else the template asks of its caller. */
export type ChatTemplateOptions = { readonly addGenerationPrompt: boolean; readonly variables?: { readonly [name: string]: unknown } };

/** The template's text: the file of its own first, then tokenizer_config.json's, alone or named `default` in a list; null if there is none. */
export function findChatTemplate(folder: string, tokenizerConfig: { readonly [key: string]: unknown }): string | null {
  const file = join(folder, 'chat_template.jinja');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  const inConfig = tokenizerConfig['chat_template'];
  if (typeof inConfig === 'string') return inConfig;
  if (!Array.isArray(inConfig)) return null;
  const named = inConfig.find((entry) => entry?.name === 'default');
  return typeof named?.template === 'string' ? named.template : null;
}

/** Parses at the first use: few pods chat, and none should start slower for it. */
export function compileChatTemplate(source: string, specialTokens: { readonly [name: string]: string }): ChatTemplate {
  let program: ReturnType<typeof parse> | null = null;
  const argumentsAs = JOINS_ARGUMENTS.test(source) ? 'text' : 'object';
  return (messages, { addGenerationPrompt, variables: more = {} }) => {
    try {
      program ??= parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
      const environment = new Environment();
      const variables = {
        ...TEMPLATE_GLOBALS,
        ...specialTokens,
        tools: null,
        ...more,
        messages: messages.map((message) => templateMessage(message, argumentsAs)),
        add_generation_prompt: addGenerationPrompt,
      };
      for (const [name, value] of Object.entries(variables)) environment.set(name, value);
      return String(new Interpreter(environment).run(program).value);
    } catch (error) {
      throw new MinipodError('invalid_request', `messages: the chat template refuses this conversation: ${reason(error)}`, { param: 'messages', cause: error });
    }
  };
}

/** DeepSeek-V3's template joins a call's arguments to text, as the text that they are in OpenAI's API; others want the object and write it themselves. */
const JOINS_ARGUMENTS = /\+\s*\w+(?:\.\w+|\[['"]\w+['"]\])*(?:\.arguments|\[['"]arguments['"]\])\s*(?:\+|[-}]|%)/;

/** A message as templates know it: reasoning under both of its names, arguments as Hugging Face gives them. */
function templateMessage({ role, content, name, reasoning, tool_calls, tool_call_id }: ChatMessage, argumentsAs: 'text' | 'object'): object {
  return {
    role,
    content,
    ...(name !== undefined && { name }),
    ...(reasoning !== undefined && { reasoning, reasoning_content: reasoning }),
    ...(tool_calls !== undefined && { tool_calls: argumentsAs === 'text' ? tool_calls : tool_calls.map(withArgumentObject) }),
    ...(tool_call_id !== undefined && { tool_call_id }),
  };
}

/** Arguments that are no JSON object, as models sometimes write them, stay the text that they are. */
function withArgumentObject(call: ToolCall): object {
  try {
    const value: unknown = JSON.parse(call.function.arguments || '{}');
    return typeof value === 'object' && value !== null ? { ...call, function: { ...call.function, arguments: value } } : call;
  } catch {
    return call;
  }
}

/**
 * What Hugging Face gives templates, but for `strftime_now`: a prompt must not depend on the clock.
 * Published templates ask whether it is defined and have a fixed date otherwise.
 */
const TEMPLATE_GLOBALS = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: string): never => {
    throw new Error(message);
  },
  range: (first: number, second?: number, step = 1): number[] => {
    const [start, stop] = second === undefined ? [0, first] : [first, second];
    const length = Math.max(0, Math.floor((stop - start + step - (step > 0 ? 1 : -1)) / step));
    if (!(length <= RANGE_MAX)) throw new Error(`range of ${length}, at most ${RANGE_MAX}`);
    return Array.from({ length }, (_, at) => start + at * step);
  },
};
const RANGE_MAX = 1_000_000;
