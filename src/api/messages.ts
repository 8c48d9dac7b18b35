/**
 * The conversation of a chat request: messages, tools, and what else the chat template is told.
 * @module
 */
import * as z from 'zod';
import type { ChatMessage } from '../protocol/prompt.ts';

/** Named limits of a conversation, beside those of a request's bytes. */
const CONVERSATION_LIMITS = { messages_max: 4096, tools_max: 1024, tool_calls_max: 1024 } as const;

const text = z.object({ type: z.literal('text', { error: 'must be "text": this model reads nothing else' }), text: z.string() });
// Several text parts are joined by line breaks, as in vLLM.
const content = z.union([
  z.string({ error: 'must be a string' }),
  z.array(text, { error: 'an array of {"type": "text", "text": …}' }).transform((parts) => parts.map((part) => part.text).join('\n')),
]);

const toolCall = z.object({
  id: z.string({ error: 'must be a string' }),
  type: z.literal('function', { error: 'must be "function"' }).default('function'),
  function: z.object({ name: z.string({ error: 'must be a string' }), arguments: z.string({ error: 'must be a string that holds JSON' }) }),
});

const message = z
  .object({
    role: z
      .enum(['system', 'developer', 'user', 'assistant', 'tool'], { error: 'must be "system", "developer", "user", "assistant" or "tool"' })
      .transform((role) => (role === 'developer' ? 'system' : role)),
    content: content.nullish(),
    name: z.string().nullish(),
    tool_calls: z.array(toolCall).max(CONVERSATION_LIMITS.tool_calls_max).nullish(),
    tool_call_id: z.string().nullish(),
    // vLLM's name, and the one before it.
    reasoning: z.string().nullish(),
    reasoning_content: z.string().nullish(),
  })
  .superRefine(({ role, content: said, tool_calls, tool_call_id }, context) => {
    const refuse = (field: string, rule: string): void => context.addIssue({ code: 'custom', path: [field], message: rule });
    const calls = tool_calls?.length ?? 0;
    if (calls > 0 && role !== 'assistant') refuse('tool_calls', 'only of role "assistant"');
    if (role === 'tool' && !tool_call_id) refuse('tool_call_id', 'must be the id of the call that the message answers');
    if (typeof said !== 'string' && calls === 0)
      refuse('content', role === 'assistant' ? 'must be a string where there are no tool_calls' : 'must be a string');
  })
  .transform(
    ({ role, content: said, name, tool_calls, tool_call_id, reasoning, reasoning_content }): ChatMessage => ({
      role,
      content: said ?? null,
      ...(name != null && { name }),
      ...((reasoning ?? reasoning_content) != null && { reasoning: reasoning ?? reasoning_content ?? '' }),
      ...(tool_calls != null && tool_calls.length > 0 && { tool_calls }),
      ...(tool_call_id != null && { tool_call_id }),
    }),
  );

export const messagesSchema = z.array(message).min(1, { error: 'must hold at least one message' }).max(CONVERSATION_LIMITS.messages_max);

/** A tool goes to the template as it is. */
const tool = z.looseObject({
  type: z.literal('function', { error: 'must be "function"' }),
  function: z.looseObject({
    name: z.string({ error: 'must be a string' }).min(1, { error: 'must not be empty' }),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
  }),
});

export const conversationShape = {
  tools: z.array(tool).max(CONVERSATION_LIMITS.tools_max).default([]),
  /** Variables of the chat template, such as Qwen3's `enable_thinking`. */
  chat_template_kwargs: z.record(z.string(), z.unknown()).default({}),
};

export const toolChoiceSchema = z.union([
  z.enum(['none', 'auto', 'required'], { error: '"none", "auto" or "required"' }),
  z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) }, { error: '{"type": "function", "function": {"name": …}}' }),
]);
