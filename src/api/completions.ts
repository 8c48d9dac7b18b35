/**
 * POST /v1/completions.
 * @module
 */
import type { GenerateOptions } from '../options/options.ts';
import type { Chunk, PromptInfo } from '../results.ts';
import type { Lease } from './admission.ts';
import type { JsonObject } from './body.ts';
import { tokensOfContext } from './contexts.ts';
import { invalid } from './errors.ts';
import { collect, type Generations, type Piece, startGenerations } from './generations.ts';
import { kvTransferOf } from './kv-transfer.ts';
import { CompletionLogprobWriter, joinLogprobs, promptLogprobs, tokenNames } from './logprobs.ts';
import { defaultMaxTokens, parsePrompts, type TextOrIds } from './prompts.ts';
import { API_LIMITS, type CompletionRequest, checkTogether, completionSchema, generateOptions, parseRequest } from './schemas.ts';
import { type Call, checkModel, type Service } from './service.ts';
import { respondWithEvents, wholeResponse } from './sse.ts';
import { refuseUnsupportedInCompletions } from './unsupported.ts';
import { usageOf } from './usage.ts';
import { FINGERPRINT } from './version.ts';

type Plan = {
  readonly request: CompletionRequest;
  readonly prompts: readonly TextOrIds[];
  readonly options: GenerateOptions;
  /** echo with max_tokens 0: the prompt alone is wanted. The pod generates at least one token, which is dropped. */
  readonly promptOnly: boolean;
  readonly head: {
    readonly id: string;
    readonly object: 'text_completion';
    readonly created: number;
    readonly model: string;
    readonly system_fingerprint: string;
  };
};

export async function completions(service: Service, body: JsonObject, lease: Lease, call: Call): Promise<Response> {
  const plan = await planCompletion(service, body, call);
  const generations = startGenerations(service, lease, plan.prompts, plan.options, { ...call, id: plan.head.id, operation: 'text_completion' });
  if (!plan.request.stream) return wholeResponse(await wholeCompletion(service, plan, generations));
  return respondWithEvents(completionEvents(service, plan, generations), lease, (error) => service.onError(error, call.request_id));
}

async function planCompletion(service: Service, body: JsonObject, { request_id }: Call): Promise<Plan> {
  const { pod } = service;
  const request = parseRequest(completionSchema, body);
  refuseUnsupportedInCompletions(body);
  checkModel(service, request.model);
  checkTogether(request, pod.model.vocab_size);
  const { n, best_of = n, echo, logprobs, context_id } = request;
  if (echo && context_id !== '') throw invalid('echo', 'not together with context_id: the text that was kept is not');
  if (best_of < n) throw invalid('best_of', `must be at least n (${n})`);
  if (best_of > n && request.stream) throw invalid('best_of', 'must equal n in a stream: the best are known only when all are done');
  // Whoever goes on from a context may have nothing to add.
  const prompts = context_id !== '' && request.prompt === undefined ? [''] : parsePrompts(request.prompt, pod.model.vocab_size);
  if (prompts.length * best_of > API_LIMITS.choices_max) throw invalid('n', `prompts × choices must be at most ${API_LIMITS.choices_max}`);
  if (prompts.length > 1 && prompts.length * best_of > pod.max_queued)
    throw invalid('prompt', `${prompts.length} prompts × ${best_of} choices are more than the pod takes in at once, ${pod.max_queued} (max_queued)`);
  const promptOnly = request.max_tokens === 0;
  if (promptOnly && !echo) throw invalid('max_tokens', 'must be at least 1 (0 only together with echo)');
  const max_tokens = promptOnly
    ? 1
    : (request.max_tokens ??
      (await defaultMaxTokens(pod, prompts, await tokensOfContext(service, context_id, request.cache_salt), request.add_special_tokens)));
  const options: GenerateOptions = {
    ...generateOptions(request),
    n: best_of,
    max_tokens,
    ...(promptOnly && { min_tokens: 0 }),
    // The best are chosen by their log-probability.
    logprobs: best_of > n ? (logprobs ?? 0) : logprobs,
    ...(echo && logprobs !== undefined && { prompt_logprobs: Math.max(logprobs, request.prompt_logprobs ?? 0) }),
  };
  const head = {
    id: `cmpl-${request_id}`,
    object: 'text_completion',
    created: Math.floor(service.clock.unix_ms() / 1000),
    model: pod.model.name,
    system_fingerprint: FINGERPRINT,
  } as const;
  return { request, prompts, options, promptOnly, head };
}

async function wholeCompletion(service: Service, plan: Plan, generations: Generations) {
  const { request, head } = plan;
  const pieces = bestChoices(await collect(generations.pieces), request.n);
  const choices = [];
  for (const piece of pieces) {
    const choice = await new ChoiceWriter(service, plan, generations).write(piece);
    const prompt = await generations.prompt(piece.prompt);
    choices.push({ ...choice, ...(request.prompt_logprobs !== undefined && { prompt_logprobs: promptLogprobs(prompt, request.prompt_logprobs) }) });
  }
  return {
    ...head,
    choices,
    usage: finalUsage(plan, generations),
    ...generations.degraded(),
    ...kvTransferOf(request.kv_transfer_params, generations),
    ...(await soloPromptIds(plan, generations)),
  };
}

async function* completionEvents(service: Service, plan: Plan, generations: Generations): AsyncGenerator<object> {
  const { request, head } = plan;
  const includeUsage = request.stream_options?.include_usage === true;
  const writers = new Map<number, ChoiceWriter>();
  for await (const piece of generations.pieces) {
    let writer = writers.get(piece.choice);
    const isFirst = writer === undefined;
    if (writer === undefined) {
      writer = new ChoiceWriter(service, plan, generations);
      writers.set(piece.choice, writer);
    }
    const { text, token_ids, finish_reason } = piece.chunk;
    if (!isFirst && text === '' && token_ids.length === 0 && finish_reason === null) continue;
    const promptIds = isFirst ? await soloPromptIds(plan, generations) : {};
    yield { ...head, choices: [await writer.write(piece)], ...(includeUsage && { usage: null }), ...generations.degraded(), ...promptIds };
  }
  if (includeUsage) yield { ...head, choices: [], usage: finalUsage(plan, generations), ...generations.degraded() };
}

const finalUsage = (plan: Plan, generations: Generations) => {
  const { prompt_tokens, completion_tokens, cached_tokens, drafted } = generations.usage();
  return usageOf(prompt_tokens, plan.promptOnly ? 0 : completion_tokens, cached_tokens, undefined, drafted);
};

/** vLLM has them at each choice; for a single prompt they are at the top as well, where chat has them. */
async function soloPromptIds(plan: Plan, generations: Generations): Promise<{ prompt_token_ids?: readonly number[] }> {
  if (!plan.request.return_token_ids || plan.prompts.length > 1) return {};
  return { prompt_token_ids: (await generations.prompt(0)).token_ids };
}

/** Of each prompt's choices the n likeliest per token, renumbered. */
function bestChoices(pieces: readonly Piece[], n: number): Piece[] {
  const byPrompt = Map.groupBy(pieces, (piece) => piece.prompt);
  return [...byPrompt].flatMap(([prompt, all]) => {
    const best = all.length <= n ? all : [...all].sort((a, b) => meanLogprob(b.chunk) - meanLogprob(a.chunk) || a.choice - b.choice).slice(0, n);
    return best.map((piece, index) => ({ ...piece, choice: prompt * n + index }));
  });
}

const meanLogprob = ({ logprobs }: Chunk): number =>
  logprobs?.length ? logprobs.reduce((sum, one) => sum + one.logprob, 0) / logprobs.length : Number.NEGATIVE_INFINITY;

/** Where special tokens are part of the text. */
const NONE_HIDDEN = { has: () => false };

/** Writes one choice, in one piece or in several; an echoed prompt goes before the first. */
class ChoiceWriter {
  readonly #service: Service;
  readonly #plan: Plan;
  readonly #generations: Generations;
  #logprobs: CompletionLogprobWriter | null = null;

  constructor(service: Service, plan: Plan, generations: Generations) {
    this.#service = service;
    this.#plan = plan;
    this.#generations = generations;
  }

  async write({ prompt: index, choice, chunk }: Piece) {
    const { request, promptOnly } = this.#plan;
    const isFirst = this.#logprobs === null;
    const prompt = await this.#generations.prompt(index);
    const echoed = isFirst && request.echo ? await this.#promptText(index) : '';
    this.#logprobs ??= this.#logprobWriter(request.echo ? { text: echoed, prompt } : null);
    if (request.logprobs !== undefined) await this.#service.hidden.learn(chunk.token_ids);
    let logprobs = request.logprobs === undefined ? null : this.#logprobs.tokens(promptOnly ? [] : (chunk.logprobs ?? []));
    if (logprobs !== null && isFirst && request.echo) logprobs = joinLogprobs(this.#logprobs.prompt(await this.#firstToken(prompt)), logprobs);
    return {
      index: choice,
      text: echoed + (promptOnly ? '' : chunk.text),
      logprobs,
      finish_reason: promptOnly && chunk.finish_reason !== null ? ('length' as const) : chunk.finish_reason,
      stop_reason: promptOnly ? null : chunk.stop_reason,
      ...(request.return_token_ids && { token_ids: promptOnly ? [] : chunk.token_ids, ...(isFirst && { prompt_token_ids: prompt.token_ids }) }),
    };
  }

  #logprobWriter(echo: { text: string; prompt: PromptInfo } | null): CompletionLogprobWriter {
    const { logprobs = 0, return_tokens_as_token_ids, skip_special_tokens } = this.#plan.request;
    const hidden = skip_special_tokens ? this.#service.hidden : NONE_HIDDEN;
    return new CompletionLogprobWriter(tokenNames(return_tokens_as_token_ids), logprobs, hidden, echo);
  }

  #promptText(index: number): string | Promise<string> {
    const prompt = this.#plan.prompts[index] ?? '';
    return typeof prompt === 'string' ? prompt : this.#service.pod.detokenize(prompt);
  }

  #firstToken({ token_ids }: PromptInfo): string | Promise<string> {
    if (token_ids[0] === undefined) return '';
    return this.#plan.request.return_tokens_as_token_ids ? `token_id:${token_ids[0]}` : this.#service.pod.detokenize([token_ids[0]]);
  }
}
