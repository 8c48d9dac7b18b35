/**
 * /v1/contexts: prompts that are kept under an id, for requests that go on from them by `context_id` (explicit context caching, DeepServe §4.3).
 * @module
 */
import { contextNotFound } from '../flowserve/frontend/contexts.ts';
import type { Conversation, Prompt } from '../protocol/prompt.ts';
import type { ContextInfo } from '../results.ts';
import type { Lease } from './admission.ts';
import type { JsonObject } from './body.ts';
import { invalid } from './errors.ts';
import { parsePrompts } from './prompts.ts';
import { type ChatRequest, contextSchema, parseRequest } from './schemas.ts';
import { checkModel, type Service } from './service.ts';
import { toolUse } from './tools.ts';

const objectOf = ({ pod }: Service, { id, tokens, created, expires }: ContextInfo) => ({
  id,
  object: 'context' as const,
  created: Math.floor(created),
  /** When it is forgotten, in Unix seconds; null: never. */
  expires_at: expires === null ? null : Math.ceil(expires),
  model: pod.model.name,
  tokens,
});

/** Answers when its prompt is computed: whoever asks for it from then on finds it. Nothing is kept for a client that has gone away by then. */
export async function createContext(service: Service, body: JsonObject, lease: Lease): Promise<Response> {
  const { model, prompt, messages, tools, chat_template_kwargs, id, ttl_seconds, cache_salt, add_special_tokens } = parseRequest(contextSchema, body);
  checkModel(service, model);
  const kept = messages === undefined ? soloPrompt(service, prompt) : conversation(service, { messages, tools, chat_template_kwargs });
  const context = await service.pod.createContext(kept, {
    ...{ id, expires_s: ttl_seconds, cache_salt, add_special_tokens, signal: lease.signal },
  });
  return Response.json(objectOf(service, context));
}

/** `cache_salt`, here and below: those of which tenant, default: those without one. */
export const listContexts = async (service: Service, cache_salt: string | undefined): Promise<Response> =>
  Response.json({ object: 'list', data: (await service.pod.listContexts({ cache_salt })).map((context) => objectOf(service, context)) });

export async function retrieveContext(service: Service, id: string, cache_salt: string | undefined): Promise<Response> {
  const context = (await service.pod.listContexts({ cache_salt })).find((one) => one.id === id);
  if (context === undefined) throw contextNotFound(id);
  return Response.json(objectOf(service, context));
}

export async function deleteContext(service: Service, id: string, cache_salt: string | undefined): Promise<Response> {
  if (!(await service.pod.deleteContext(id, { cache_salt }))) throw contextNotFound(id);
  return Response.json({ id, object: 'context', deleted: true });
}

/** What a request's own prompt comes on top of. 0 where there is no such context: that is the pod's to say. */
export async function tokensOfContext({ pod }: Service, context_id: string, cache_salt: string): Promise<number> {
  return context_id === '' ? 0 : ((await pod.listContexts({ cache_salt })).find(({ id }) => id === context_id)?.tokens ?? 0);
}

function soloPrompt({ pod }: Service, value: unknown): Prompt {
  const [prompt, ...more] = parsePrompts(value, pod.model.vocab_size);
  if (prompt === undefined || more.length > 0) throw invalid('prompt', 'must be one prompt: a string, or an array of token ids');
  return prompt;
}

/** A template writes tools before all messages: chats that have some find the beginning of their prompt here only if it has the same. */
function conversation({ pod, tool_call_parser }: Service, { tools, ...said }: Conversation & Pick<ChatRequest, 'tools'>): Conversation {
  if (!pod.model.has_chat_template) throw invalid('messages', `the model ${pod.model.name} has no chat template; pass prompt`);
  return { ...said, tools: toolUse({ tools }, tool_call_parser).tools };
}
