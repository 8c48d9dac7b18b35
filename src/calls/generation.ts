/**
 * A running generation on the caller's side: chunks come in from the ring, the caller takes them out.
 * @module
 */

import { PartCollector } from '../flowserve/frontend/parsers/reply-part.ts';
import type { ChunkRecord, PositionRecord } from '../protocol/caller.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { ChoiceTimes, Chunk, Completion, CompletionChoice, FinishReason, Generation, PromptInfo, RequestTimes, TokenLogprob, Usage } from '../results.ts';
import type { Clock } from '../runtime/clock.ts';
import { UnreadChunks } from './unread-chunks.ts';

const describe = ({ chosen, top }: PositionRecord): TokenLogprob => ({ ...chosen, top_logprobs: top });

const toChunk = ({ choice, text, token_ids, logprobs, finish, stop_string, stop_token, parsed, degraded }: ChunkRecord): Chunk => ({
  choice,
  text,
  token_ids,
  logprobs: logprobs === null ? null : logprobs.map(describe),
  finish_reason: finish,
  stop_reason: stop_string ?? (stop_token >= 0 ? stop_token : null),
  ...(parsed !== null && { parsed }),
  ...(degraded && { degraded }),
});

type Reader = { readonly resolve: (result: IteratorResult<Chunk, void>) => void; readonly reject: (error: MinipodError) => void };
const OVER: IteratorResult<Chunk, void> = Object.freeze({ value: undefined, done: true });

export type GenerationPorts = { readonly clock: Clock; readonly cancel: () => void; readonly ended: () => void };

type Writable<Record> = { -readonly [Field in keyof Record]: Record[Field] };

const notComputed = (choice: number): ChoiceTimes => ({ choice, prefill_group: null, decode_group: null, first_token: null, moved: null, finished: null });

/** What its caller asked for. */
export type GenerationTerms = { readonly id: string; readonly seed: number; readonly choices: number; readonly wantsPromptLogprobs: boolean };

export class LiveGeneration implements Generation {
  readonly id: string;
  readonly seed: number;
  readonly prompt: Promise<PromptInfo>;
  readonly #ports: GenerationPorts;
  readonly #wantsPromptLogprobs: boolean;
  readonly #prompt = Promise.withResolvers<PromptInfo>();
  #isPromptTold = false;
  #tokenIds: readonly number[] | null = null;
  readonly #unread = new UnreadChunks();
  /** Of those, what its reader takes one by one, and how far it is. */
  #taken: readonly ChunkRecord[] = [];
  #at = 0;
  /** Who wait for a chunk, while there is none. */
  readonly #readers: Reader[] = [];
  /** Its reader wants no more, or has heard how it ended. */
  #isLeft = false;
  #error: MinipodError | null = null;
  #hasEnded = false;
  #isIterated = false;
  #generated = 0;
  #cached = 0;
  #drafted = 0;
  #accepted = 0;
  degraded = false;
  readonly #times: Writable<RequestTimes>;
  readonly #choices: Writable<ChoiceTimes>[];
  #onTokens: Parameters<Generation['onTokens']>[0] | null = null;

  constructor({ id, seed, choices, wantsPromptLogprobs }: GenerationTerms, ports: GenerationPorts) {
    this.id = id;
    this.seed = seed;
    this.#wantsPromptLogprobs = wantsPromptLogprobs;
    this.#ports = ports;
    this.prompt = this.#prompt.promise;
    // Whoever does not ask for the prompt need not handle its failure: iteration reports it.
    this.prompt.catch(() => {});
    this.#times = { received: ports.clock.now_ms(), scheduled: null, first_token: null, finished: 0 };
    this.#choices = Array.from({ length: choices }, (_, choice) => notComputed(choice));
  }

  /** It has had a token. */
  get hasBegun(): boolean {
    return this.#times.first_token !== null;
  }

  usage(): Usage {
    const prompt_tokens = this.#tokenIds?.length ?? 0;
    const [drafted_tokens, accepted_prediction_tokens] = [this.#drafted, this.#accepted];
    // Of one that was taken over, the token that told of a draft may have come before.
    const rejected_prediction_tokens = Math.max(0, drafted_tokens - accepted_prediction_tokens);
    const drafted = drafted_tokens === 0 ? {} : { drafted: { accepted_prediction_tokens, rejected_prediction_tokens } };
    return { prompt_tokens, completion_tokens: this.#generated, total_tokens: prompt_tokens + this.#generated, cached_tokens: this.#cached, ...drafted };
  }

  times(): RequestTimes {
    return { ...this.#times };
  }

  choices(): readonly ChoiceTimes[] {
    return this.#choices;
  }

  onTokens(listener: Parameters<Generation['onTokens']>[0]): void {
    this.#onTokens = listener;
  }

  /** The pod has its prompt as ids. */
  begin(token_ids: readonly number[]): void {
    this.#tokenIds = token_ids;
    if (!this.#wantsPromptLogprobs) this.#tellPrompt({ token_ids, logprobs: null });
  }

  /** Of all prompt tokens but the first. */
  scorePrompt(logprobs: readonly PositionRecord[]): void {
    this.#tellPrompt({ token_ids: this.#tokenIds ?? [], logprobs: [null, ...logprobs.map(describe)] });
  }

  schedule(): void {
    this.#times.scheduled ??= this.#ports.clock.now_ms();
  }

  /** The KV of so many of its prompt's tokens was there already. */
  foundCached(tokens: number): void {
    this.#cached = tokens;
  }

  /** A choice's next tokens are of this DP group: its first ones, or, as it has moved, all from here on. */
  move(index: number, group: number): void {
    const choice = this.#choices[index];
    if (choice === undefined) return;
    if (choice.prefill_group === null) choice.prefill_group = group;
    else choice.moved = this.#ports.clock.now_ms();
    choice.decode_group = group;
  }

  push(record: ChunkRecord): void {
    const now_ms = this.#ports.clock.now_ms();
    // The news that it was scheduled comes another way.
    this.#times.scheduled ??= now_ms;
    this.#times.first_token ??= now_ms;
    const choice = this.#choices[record.choice];
    if (choice !== undefined) {
      choice.first_token ??= now_ms;
      if (record.finish !== null) choice.finished = now_ms;
    }
    this.#generated += record.token_ids.length;
    if (record.degraded) this.degraded = true;
    if (record.drafted < 0) this.#accepted++;
    else this.#drafted += record.drafted;
    if (record.token_ids.length > 0) this.#onTokens?.(record.choice, record.token_ids.length, now_ms);
    const reader = this.#readers.shift();
    if (reader === undefined) this.#unread.push(record);
    else reader.resolve({ value: toChunk(record), done: false });
  }

  end(error: MinipodError | null): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#ports.ended();
    this.#error = error;
    this.#times.finished = this.#ports.clock.now_ms();
    // Who has its prompt is spared an error, which takes longer to make than a token to deliver.
    if (error !== null || !this.#isPromptTold) this.#prompt.reject(error ?? new MinipodError('internal', 'the request ended without its prompt'));
    this.#endReaders();
  }

  cancel(): void {
    if (!this.#hasEnded) this.#ports.cancel();
  }

  [Symbol.asyncIterator](): AsyncIterator<Chunk> {
    if (this.#isIterated) throw new MinipodError('invalid_request', 'a generation is iterated once; keep its chunks to read them again');
    this.#isIterated = true;
    return {
      next: () => this.#next(),
      return: () => {
        this.cancel();
        this.#isLeft = true;
        this.#endReaders();
        return Promise.resolve(OVER);
      },
    };
  }

  /** By hand: of a generator each chunk takes some promises more, and what resumes it is in no cache behind a step's kernels. */
  #next(): Promise<IteratorResult<Chunk, void>> {
    const record = this.#isLeft ? undefined : this.#nextUnread();
    if (record !== undefined) return Promise.resolve({ value: toChunk(record), done: false });
    if (this.#isLeft || this.#hasEnded) return this.#over();
    return new Promise((resolve, reject) => {
      this.#readers.push({ resolve, reject });
    });
  }

  #nextUnread(): ChunkRecord | undefined {
    if (this.#at === this.#taken.length) {
      if (this.#unread.isEmpty) return undefined;
      this.#taken = this.#unread.take();
      this.#at = 0;
    }
    return this.#taken[this.#at++];
  }

  /** An error is told once. */
  #over(): Promise<IteratorResult<Chunk, void>> {
    const error = this.#isLeft ? null : this.#error;
    this.#isLeft = true;
    return error === null ? Promise.resolve(OVER) : Promise.reject(error);
  }

  #tellPrompt(prompt: PromptInfo): void {
    this.#isPromptTold = true;
    this.#prompt.resolve(prompt);
  }

  #endReaders(): void {
    for (const { resolve, reject } of this.#readers.splice(0)) this.#over().then(resolve, reject);
  }
}

/** Collects a whole generation. */
export async function collect(generation: Generation, model: string, choices: number): Promise<Completion> {
  const parts = Array.from({ length: choices }, (_, index) => ({
    index,
    text: '',
    token_ids: [] as number[],
    logprobs: null as TokenLogprob[] | null,
    finish: null as FinishReason | null,
    stop: null as string | number | null,
    parts: null as PartCollector | null,
    reasoning_tokens: 0,
  }));
  for await (const chunk of generation) {
    const part = parts[chunk.choice];
    if (part === undefined) throw new MinipodError('internal', `choice ${chunk.choice} of ${choices}`);
    part.text += chunk.text;
    part.token_ids.push(...chunk.token_ids);
    if (chunk.logprobs !== null) part.logprobs = [...(part.logprobs ?? []), ...chunk.logprobs];
    part.finish = chunk.finish_reason ?? part.finish;
    part.stop = chunk.stop_reason ?? part.stop;
    if (chunk.parsed === undefined) continue;
    part.parts ??= new PartCollector();
    for (const one of chunk.parsed.parts) part.parts.emit(one);
    part.reasoning_tokens += chunk.parsed.reasoning_tokens;
  }
  const finished = parts.map(({ index, text, token_ids, logprobs, finish, stop, parts, reasoning_tokens }): CompletionChoice => {
    if (finish === null) throw new MinipodError('internal', `choice ${index} of ${generation.id} ended without a reason`);
    const parsed = parts === null ? {} : { parsed: { parts: parts.take(), reasoning_tokens } };
    return { index, text, token_ids, logprobs, finish_reason: finish, stop_reason: stop, ...parsed };
  });
  return {
    id: generation.id,
    model,
    prompt: await generation.prompt,
    choices: finished,
    usage: generation.usage(),
    seed: generation.seed,
    ...(generation.degraded && { degraded: true }),
  };
}
