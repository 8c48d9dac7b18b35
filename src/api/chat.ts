/**
 * POST /v1/chat/completions.
 * @module
 */
import type { Chunk } from '../results.ts';
import type { Lease } from './admission.ts';
import type { JsonObject } from './body.ts';
import { invalid } from './errors.ts';
import { collect, type Generations, startGenerations } from './generations.ts';
import { kvTransferOf } from './kv-transfer.ts';
import { chatLogprobs, promptLogprobs, tokenNames } from './logprobs.ts';
import { Replies } from './replies.ts';
import type { Reply } from './reply.ts';
import { type ChatRequest, chatSchema, checkTogether, generateOptions, parseRequest } from './schemas.ts';
import { type Call, checkModel, type Service } from './service.ts';
import { respondWithEvents, wholeResponse } from './sse.ts';
import { toolUse } from './tools.ts';
import { refuseUnsupportedInChat } from './unsupported.ts';
import { FINGERPRINT } from './version.ts';

type Head = { readonly id: string; readonly created: number; readonly model: string; readonly system_fingerprint: string };

export async function chatCompletions(service: Service, body: JsonObject, lease: Lease, call: Call): Promise<Response> {
  const request = parseChat(service, body);
  const { tools, parser: tool_call_parser } = toolUse(request, service.tool_call_parser);
  const { reasoning_parser } = service;
  const max_tokens = request.max_completion_tokens ?? request.max_tokens;
  const logprobs = request.logprobs ? (request.top_logprobs ?? 0) : undefined;
  const id = `chatcmpl-${call.request_id}`;
  const head: Head = { id, created: Math.floor(service.clock.unix_ms() / 1000), model: service.pod.model.name, system_fingerprint: FINGERPRINT };
  const parsers = { reasoning_parser: reasoning_parser ?? undefined, tool_call_parser: tool_call_parser ?? undefined };
  const options = { ...generateOptions(request), max_tokens, logprobs, ...parsers };
  const prompt = { messages: request.messages, tools, chat_template_kwargs: request.chat_template_kwargs };
  const generations = startGenerations(service, lease, [prompt], options, { ...call, id, operation: 'chat' });
  const { include_reasoning, parallel_tool_calls } = request;
  const replies = new Replies(service, generations, { reasoning_parser, tool_call_parser, include_reasoning, parallel_tool_calls });
  if (!request.stream) return wholeResponse(await wholeChat(request, head, generations, replies));
  return respondWithEvents(chatEvents(request, head, generations, replies), lease, (error) => service.onError(error, call.request_id));
}

function parseChat(service: Service, body: JsonObject): ChatRequest {
  refuseUnsupportedInChat(body);
  const request = parseRequest(chatSchema, body);
  checkModel(service, request.model);
  checkTogether(request, service.pod.model.vocab_size);
  if ((request.top_logprobs ?? 0) > 0 && !request.logprobs) throw invalid('top_logprobs', 'only together with logprobs: true');
  if (!service.pod.model.has_chat_template) throw invalid('messages', `the model ${service.pod.model.name} has no chat template; use /v1/completions`);
  return request;
}

async function wholeChat(request: ChatRequest, head: Head, generations: Generations, replies: Replies) {
  const pieces = await collect(replies.follow(generations.pieces));
  const prompt = await generations.prompt(0);
  const choices = [];
  for (const { choice, chunk } of pieces) {
    const reply = replies.of(choice);
    choices.push({ index: choice, message: reply.message(), ...ending(request, chunk, reply) });
  }
  return {
    ...head,
    object: 'chat.completion' as const,
    choices,
    usage: replies.usage(),
    ...generations.degraded(),
    ...kvTransferOf(request.kv_transfer_params, generations),
    ...(request.return_token_ids && { prompt_token_ids: prompt.token_ids }),
    ...(request.prompt_logprobs !== undefined && { prompt_logprobs: promptLogprobs(prompt, request.prompt_logprobs) }),
  };
}

async function* chatEvents(request: ChatRequest, head: Head, generations: Generations, replies: Replies): AsyncGenerator<object> {
  const includeUsage = request.stream_options?.include_usage === true;
  const event = (choices: readonly object[], usage: object | null = null) => ({
    ...head,
    object: 'chat.completion.chunk' as const,
    choices,
    ...(includeUsage && { usage }),
    ...generations.degraded(),
  });
  let begun = false;
  for await (const { choice, chunk } of generations.pieces) {
    // Roles go out when the first piece is there: until then the request can still fail with a status.
    if (!begun) {
      begun = true;
      const promptIds = request.return_token_ids && { prompt_token_ids: (await generations.prompt(0)).token_ids };
      for (let index = 0; index < request.n; index++)
        yield { ...event([{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }]), ...(index === 0 && promptIds) };
    }
    const reply = replies.of(choice);
    const delta = reply.push(chunk);
    // A chunk whose text is held back has nothing to say, but for who counts tokens.
    const saysNothing = Object.keys(delta).length === 0 && !(chunk.token_ids.length > 0 && (request.logprobs || request.return_token_ids));
    if (saysNothing && chunk.finish_reason === null) continue;
    yield event([{ index: choice, delta, ...ending(request, chunk, reply) }]);
  }
  if (includeUsage) yield event([], replies.usage());
}

/** What a whole choice and a delta of one have in common. */
const ending = (request: ChatRequest, chunk: Chunk, reply: Reply) => ({
  logprobs: request.logprobs ? { content: chatLogprobs(chunk.logprobs ?? [], tokenNames(request.return_tokens_as_token_ids)), refusal: null } : null,
  finish_reason: reply.finish,
  stop_reason: chunk.stop_reason,
  ...(request.return_token_ids && { token_ids: chunk.token_ids }),
});
