/**
 * POST /tokenize and /detokenize, in vLLM's shapes.
 * @module
 */
import type { JsonObject } from './body.ts';
import { invalid } from './errors.ts';
import { detokenizeSchema, parseRequest, tokenizeSchema } from './schemas.ts';
import { checkModel, type Service } from './service.ts';

export async function tokenize(service: Service, body: JsonObject): Promise<Response> {
  const { model, prompt, messages, tools, chat_template_kwargs, add_special_tokens, return_token_strs } = parseRequest(tokenizeSchema, body);
  checkModel(service, model);
  if (messages !== undefined && !service.pod.model.has_chat_template)
    throw invalid('messages', `the model ${service.pod.model.name} has no chat template; pass prompt`);
  const { token_ids, tokens } = await service.pod.tokenize(messages === undefined ? (prompt ?? '') : { messages, tools, chat_template_kwargs }, {
    add_special_tokens,
  });
  return Response.json({
    count: token_ids.length,
    max_model_len: service.pod.model.context_length,
    tokens: token_ids,
    token_strs: return_token_strs ? tokens : null,
  });
}

export async function detokenize(service: Service, body: JsonObject): Promise<Response> {
  const { model, tokens } = parseRequest(detokenizeSchema, body);
  checkModel(service, model);
  const { vocab_size, context_length } = service.pod.model;
  if (tokens.length > context_length)
    throw invalid('tokens', `the model's context length is ${context_length} tokens; these are ${tokens.length}`, 'context_length_exceeded');
  const wrong = tokens.findIndex((id) => id >= vocab_size);
  if (wrong >= 0) throw invalid(`tokens[${wrong}]`, `must be a token id, an integer from 0 to ${vocab_size - 1}`);
  return Response.json({ prompt: await service.pod.detokenize(tokens) });
}
