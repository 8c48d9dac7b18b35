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
import { type ChatRequest, chatSchema, checkTogether, generateOptions, parseRequest } from './schemas.ts';
import { type Call, checkModel, type Service } from './service.ts';
import { respondWithEvents } from './sse.ts';
import { refuseUnsupportedInChat } from './unsupported.ts';
import { usageOf } from './usage.ts';
import { FINGERPRINT } from './version.ts';

type Head = { readonly id: string; readonly created: number; readonly model: string; readonly system_fingerprint: string };

export async function chatCompletions(service: Service, body: JsonObject, lease: Lease, call: Call): Promise<Response> {
  const request = parseChat(service, body);
  const max_tokens = request.max_completion_tokens ?? request.max_tokens;
  const logprobs = request.logprobs ? (request.top_logprobs ?? 0) : undefined;
  const id = `chatcmpl-${call.request_id}`;
  const head: Head = { id, created: Math.floor(service.clock.unix_ms() / 1000), model: service.pod.model.name, system_fingerprint: FINGERPRINT };
  const options = { ...generateOptions(request), max_tokens, logprobs };
  const generations = startGenerations(service, lease, [request.messages], options, { ...call, id, operation: 'chat' });
  if (!request.stream) return Response.json(await wholeChat(request, head, generations));
  return respondWithEvents(chatEvents(request, head, generations), lease, (error) => service.onError(error, call.request_id));
}

function parseChat(service: Service, body: JsonObject): ChatRequest {
  // First, so that a request with tools hears of them and not of the messages that follow from them.
  refuseUnsupportedInChat(body);
  const request = parseRequest(chatSchema, body);
  checkModel(service, request.model);
  checkTogether(request, service.pod.model.vocab_size);
  if ((request.top_logprobs ?? 0) > 0 && !request.logprobs) throw invalid('top_logprobs', 'only together with logprobs: true');
  if (!service.pod.model.has_chat_template) throw invalid('messages', `the model ${service.pod.model.name} has no chat template; use /v1/completions`);
  return request;
}

async function wholeChat(request: ChatRequest, head: Head, generations: Generations) {
  const pieces = await collect(generations.pieces);
  const prompt = await generations.prompt(0);
  return {
    ...head,
    object: 'chat.completion' as const,
    choices: pieces.map(({ choice, chunk }) => ({
      index: choice,
      message: { role: 'assistant' as const, content: chunk.text, refusal: null },
      ...ending(request, chunk),
    })),
    usage: finalUsage(generations),
    ...kvTransferOf(request.kv_transfer_params, generations),
    ...(request.return_token_ids && { prompt_token_ids: prompt.token_ids }),
    ...(request.prompt_logprobs !== undefined && { prompt_logprobs: promptLogprobs(prompt, request.prompt_logprobs) }),
  };
}

async function* chatEvents(request: ChatRequest, head: Head, generations: Generations): AsyncGenerator<object> {
  const includeUsage = request.stream_options?.include_usage === true;
  const event = (choices: readonly object[], usage: object | null = null) => ({
    ...head,
    object: 'chat.completion.chunk' as const,
    choices,
    ...(includeUsage && { usage }),
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
    if (chunk.text === '' && chunk.token_ids.length === 0 && chunk.finish_reason === null) continue;
    yield event([{ index: choice, delta: chunk.text === '' ? {} : { content: chunk.text }, ...ending(request, chunk) }]);
  }
  if (includeUsage) yield event([], finalUsage(generations));
}

/** What a whole choice and a delta of one have in common. */
const ending = (request: ChatRequest, chunk: Chunk) => ({
  logprobs: request.logprobs ? { content: chatLogprobs(chunk.logprobs ?? [], tokenNames(request.return_tokens_as_token_ids)), refusal: null } : null,
  finish_reason: chunk.finish_reason,
  stop_reason: chunk.stop_reason,
  ...(request.return_token_ids && { token_ids: chunk.token_ids }),
});

const finalUsage = (generations: Generations) => {
  const { prompt_tokens, completion_tokens, cached_tokens } = generations.usage();
  return usageOf(prompt_tokens, completion_tokens, cached_tokens);
};
