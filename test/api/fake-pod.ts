/**
 * A pod without a model: a token is a hash of what went before it, so the same call gives the same tokens, and it can be told to be slow or to fail.
 * Tokens 0–255 are bytes, 256 is bos, 257 is the end of a sequence; some generated characters take two tokens.
 * @module
 */
import type { ContextOptions } from '../../src/options/context-options.ts';
import { type GenerateOptions, generateOptionsSchema, parseOptions, type ResolvedGenerateOptions } from '../../src/options/options.ts';
import type { ModelInfo, Pod, RebalanceOptions } from '../../src/pod.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import type { RebalanceReport } from '../../src/protocol/expert-maps.ts';
import type { KvEvent, KvEventPage } from '../../src/protocol/kv-events.ts';
import type { Prompt } from '../../src/protocol/prompt.ts';
import type { ChoiceTimes, Chunk, Completion, CompletionChoice, ContextInfo, Generation, PromptInfo, RequestTimes, Usage } from '../../src/results.ts';
import type { PodExperts, PodStats } from '../../src/stats.ts';
import { BOS, bytesOf, Choice, hash, logprobOf, VOCAB_SIZE } from './fake-choice.ts';
import { fakeExperts, fakeRebalance } from './fake-experts.ts';
import { fakeStats } from './fake-stats.ts';

export type Faults = {
  /** Before the first chunk. */
  fail_at_start?: Error;
  /** Rejects after this many chunks. */
  fail_after?: { chunks: number; error: Error };
  delay_ms?: number;
  /** Each choice's first token is of DP group 0, all others of DP group 1. */
  disaggregated?: boolean;
  /** Each chunk's text is so many times what it would be. */
  wide?: number;
  /** Never gives a token and never minds its signal. */
  hang?: boolean;
};

const encoder = new TextEncoder();

const ONE_GROUP = { attention: 1, experts: null };

export class FakePod implements Pod {
  readonly model: ModelInfo;
  max_queued = 4096;
  faults: Faults;
  cancelled = 0;
  readonly scale = async ({ attention = 1 }: { attention?: number | undefined }) => ({ ...ONE_GROUP, attention, was: ONE_GROUP, duration_ms: 1 });
  chunks_given = 0;
  running = 0;
  closed = false;
  readonly contexts: ContextInfo[] = [];
  kv_events: { first: number; batches: (readonly KvEvent[])[]; life?: number } = { first: 0, batches: [] };
  readonly finished: Record<string, number> = { stop: 0, length: 0, cancelled: 0, failed: 0 };
  prompt_tokens = 0;
  generation_tokens = 0;

  constructor(faults: Faults = {}, model: Partial<ModelInfo> = {}) {
    this.faults = faults;
    const own: ModelInfo = {
      name: 'fake',
      architecture: 'hash',
      context_length: 512,
      vocab_size: VOCAB_SIZE,
      parameters: 0,
      created: 1_700_000_000,
      has_chat_template: true,
    };
    this.model = { ...own, ...model };
  }

  generate(prompt: Prompt, { signal, ...rest }: GenerateOptions = {}): Generation {
    if (this.closed) throw new MinipodError('closed', 'the pod is closed');
    const options = parseOptions(generateOptionsSchema, rest, 'options');
    const token_ids = this.#encode(prompt, options.add_special_tokens);
    const left = this.model.context_length - token_ids.length;
    if (left < 1 || (options.max_tokens ?? 1) > left)
      throw new MinipodError(
        'context_length_exceeded',
        `${token_ids.length} prompt tokens and ${options.max_tokens ?? 1} to generate exceed the context length ${this.model.context_length}`,
        { param: 'prompt' },
      );
    return new FakeGeneration(this, token_ids, { ...options, max_tokens: options.max_tokens ?? left }, signal ?? undefined);
  }

  async complete(prompt: Prompt, options: GenerateOptions = {}): Promise<Completion> {
    const generation = this.generate(prompt, options);
    const choices: CompletionChoice[] = [];
    for await (const { choice, ...chunk } of generation) {
      const before = choices[choice];
      choices[choice] = {
        index: choice,
        text: (before?.text ?? '') + chunk.text,
        token_ids: [...(before?.token_ids ?? []), ...chunk.token_ids],
        logprobs: chunk.logprobs === null ? null : [...(before?.logprobs ?? []), ...chunk.logprobs],
        finish_reason: chunk.finish_reason ?? 'length',
        stop_reason: chunk.stop_reason,
      };
    }
    return { id: generation.id, model: this.model.name, prompt: await generation.prompt, choices, usage: generation.usage(), seed: generation.seed };
  }

  async tokenize(
    prompt: Exclude<Prompt, readonly number[]>,
    options: { add_special_tokens?: boolean } = {},
  ): Promise<{ token_ids: number[]; tokens: string[] }> {
    const token_ids = this.#encode(prompt, options.add_special_tokens ?? true);
    return { token_ids, tokens: token_ids.map((id) => new TextDecoder().decode(Uint8Array.from(bytesOf(id)))) };
  }

  balancing: PodStats['expert_balancing'] = [];
  loops: PodStats['loops'] = [];
  recoveries: PodStats['recoveries'] = [];
  experts_lost: PodStats['experts_lost'] = [];
  experts_masked: PodStats['experts_masked'] = [];
  suspicions: PodStats['suspicions'] = { counts: { given_up: 0, over: 0, no_spare_seat: 0, control_thread: 0 }, standing: [] };
  async rebalance({ force = false }: RebalanceOptions = {}): Promise<readonly RebalanceReport[]> {
    return [fakeRebalance(force)];
  }

  async resetPrefixCache(): Promise<void> {}

  async kvEvents(dp_group: number, from = 0): Promise<KvEventPage> {
    if (dp_group > 0) throw new MinipodError('invalid_request', `dp_group: there is no DP group ${dp_group}`, { param: 'dp_group' });
    const { first, batches, life = 1 } = this.kv_events;
    const skipped = Math.max(0, from - first);
    const told = batches.slice(skipped, skipped + 2).map((events, index) => ({ seq: first + skipped + index, events }));
    return { batches: told, next: first + batches.length, life };
  }

  async createContext(prompt: Prompt, { id = `ctx-${this.contexts.length}`, expires_s }: ContextOptions = {}): Promise<ContextInfo> {
    const context = { id, tokens: this.#encode(prompt, true).length, created: 100, expires: expires_s === undefined ? null : 100 + expires_s };
    this.contexts.push(context);
    return context;
  }

  async listContexts(): Promise<readonly ContextInfo[]> {
    return this.contexts;
  }

  async deleteContext(id: string): Promise<boolean> {
    const at = this.contexts.findIndex((context) => context.id === id);
    if (at >= 0) this.contexts.splice(at, 1);
    return at >= 0;
  }

  async detokenize(tokenIds: readonly number[]): Promise<string> {
    return new TextDecoder().decode(Uint8Array.from(tokenIds.filter((id) => id < 256)));
  }

  async experts({ measure = true }: { measure?: boolean } = {}): Promise<PodExperts> {
    return fakeExperts(this.model.name, measure);
  }

  async stats(): Promise<PodStats> {
    if (this.closed) throw new MinipodError('closed', 'the pod is closed');
    const { running, finished, prompt_tokens, generation_tokens, balancing, suspicions, experts_lost, experts_masked, recoveries, loops } = this;
    const figures = {
      running,
      prompt_tokens,
      generation_tokens,
      suspicions,
      experts_lost,
      experts_masked,
      recoveries,
      loops,
      disaggregated: this.faults.disaggregated === true,
    };
    return fakeStats({ ...figures, model: this.model.name, requests_finished: finished, expert_balancing: balancing });
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #encode(prompt: Prompt, addBos: boolean): number[] {
    if (typeof prompt === 'string') return [...(addBos ? [BOS] : []), ...encoder.encode(prompt)];
    const items = 'messages' in prompt ? prompt.messages : prompt;
    return [...items].flatMap((item) => (typeof item === 'number' ? [item] : [...encoder.encode(`[${item.role}]${item.content}\n`)]));
  }
}

class FakeGeneration implements Generation {
  readonly degraded = false;
  readonly id: string;
  readonly seed: number;
  readonly prompt: Promise<PromptInfo>;
  readonly #pod: FakePod;
  readonly #faults: Faults;
  readonly #ids: readonly number[];
  readonly #options: ResolvedGenerateOptions & { max_tokens: number };
  readonly #signal: AbortSignal | undefined;
  readonly #times: { -readonly [K in keyof RequestTimes]: RequestTimes[K] };
  readonly #choices: { -readonly [K in keyof ChoiceTimes]: ChoiceTimes[K] }[];
  #completionTokens = 0;
  #onTokens: Parameters<Generation['onTokens']>[0] = () => {};

  constructor(pod: FakePod, ids: readonly number[], options: ResolvedGenerateOptions & { max_tokens: number }, signal: AbortSignal | undefined) {
    this.#pod = pod;
    this.#faults = pod.faults;
    this.#ids = ids;
    this.#options = options;
    this.#signal = signal;
    this.seed = options.seed ?? 1;
    this.id = `fake-${hash(...ids)}`;
    this.#times = { received: performance.now(), scheduled: null, first_token: null, finished: 0 };
    const nothing = { prefill_group: null, decode_group: null, first_token: null, moved: null, finished: null };
    this.#choices = Array.from({ length: options.n }, (_, choice) => ({ choice, ...nothing }));
    const { prompt_logprobs: best } = options;
    const logprobs =
      best === undefined ? null : ids.map((id, position) => (position === 0 ? null : logprobOf(id, hash(position, ...ids.slice(0, position)), best)));
    this.prompt = pod.faults.fail_at_start ? Promise.reject(pod.faults.fail_at_start) : Promise.resolve({ token_ids: ids, logprobs });
    this.prompt.catch(() => {});
  }

  usage(): Usage {
    return {
      prompt_tokens: this.#ids.length,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#ids.length + this.#completionTokens,
      cached_tokens: 0,
    };
  }

  times(): RequestTimes {
    return this.#times;
  }

  choices(): readonly ChoiceTimes[] {
    return this.#choices;
  }

  onTokens(listener: Parameters<Generation['onTokens']>[0]): void {
    this.#onTokens = listener;
  }

  #note({ choice: index, token_ids, finish_reason }: Chunk): void {
    const choice = this.#choices[index];
    if (choice === undefined) return;
    const now = performance.now();
    if (choice.prefill_group !== null && this.#faults.disaggregated) choice.moved ??= now;
    choice.prefill_group ??= 0;
    choice.decode_group = choice.moved === null ? 0 : 1;
    choice.first_token ??= now;
    if (finish_reason !== null) choice.finished = now;
    if (token_ids.length > 0) this.#onTokens(index, token_ids.length, now);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Chunk> {
    const pod = this.#pod;
    pod.running++;
    let outcome = 'cancelled';
    try {
      for await (const chunk of this.#steps()) {
        yield chunk;
        if (chunk.finish_reason !== null) outcome = chunk.finish_reason;
      }
    } catch (error) {
      if (!(error instanceof MinipodError && error.code === 'cancelled')) outcome = 'failed';
      throw error;
    } finally {
      pod.running--;
      pod.finished[outcome] = (pod.finished[outcome] ?? 0) + 1;
      if (outcome === 'cancelled') pod.cancelled++;
      this.#times.finished = performance.now();
    }
  }

  async *#steps(): AsyncGenerator<Chunk> {
    const faults = this.#faults;
    if (faults.fail_at_start) throw faults.fail_at_start;
    this.#times.scheduled = performance.now();
    this.#pod.prompt_tokens += this.#ids.length;
    let given = 0;
    const writers = Array.from({ length: this.#options.n }, (_, choice) => new Choice(this.#ids, this.#options, this.seed, choice));
    while (writers.some((writer) => !writer.done)) {
      for (const writer of writers) {
        if (writer.done) continue;
        await this.#pause(faults);
        if (faults.fail_after?.chunks === given) throw faults.fail_after.error;
        const { text, ...step } = writer.step();
        const chunk = { ...step, text: text.repeat(faults.wide ?? 1) };
        this.#completionTokens += chunk.token_ids.length;
        this.#pod.generation_tokens += chunk.token_ids.length;
        this.#pod.chunks_given++;
        this.#times.first_token ??= performance.now();
        this.#note(chunk);
        given++;
        yield chunk;
      }
    }
  }

  async #pause({ delay_ms = 0, hang }: Faults): Promise<void> {
    if (hang) await new Promise(() => {});
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, delay_ms);
      this.#signal?.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
    if (this.#signal?.aborted) throw new MinipodError('cancelled', 'the request was cancelled');
  }
}
