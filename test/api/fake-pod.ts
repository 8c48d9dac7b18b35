/**
 * A pod without a model: a token is a hash of what went before it, so the same call gives the same tokens, and it can be told to be slow or to fail.
 * Tokens 0–255 are bytes, 256 is bos, 257 is the end of a sequence; some generated characters take two tokens.
 * @module
 */
import { type ContextOptions, type GenerateOptions, generateOptionsSchema, parseOptions, type ResolvedGenerateOptions } from '../../src/options.ts';
import type { ModelInfo, Pod, RebalanceOptions } from '../../src/pod.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import type { RebalanceReport } from '../../src/protocol/expert-maps.ts';
import type { KvEvent, KvEventPage } from '../../src/protocol/kv-events.ts';
import type { Prompt } from '../../src/protocol/prompt.ts';
import { NO_DRAFTS } from '../../src/protocol/threads.ts';
import type {
  ChoiceTimes,
  Chunk,
  Completion,
  CompletionChoice,
  ContextInfo,
  Generation,
  LinkStats,
  PodExperts,
  PodStats,
  PromptInfo,
  RegionStats,
  RequestTimes,
  ThreadStats,
  Usage,
} from '../../src/results.ts';
import { BOS, bytesOf, Choice, hash, logprobOf, VOCAB_SIZE } from './fake-choice.ts';
import { fakeExperts, fakeRebalance } from './fake-experts.ts';

export type Faults = {
  /** Before the first chunk. */
  fail_at_start?: Error;
  /** Rejects after this many chunks. */
  fail_after?: { chunks: number; error: Error };
  delay_ms?: number;
  /** Each choice's first token is of DP group 0, all others of DP group 1. */
  disaggregated?: boolean;
  /** Never gives a token and never minds its signal. */
  hang?: boolean;
};

const encoder = new TextEncoder();

const PROBES = { probes_passed: 7, probes_broken: 1, probe_us_max: 90 };
const REGIONS: readonly RegionStats[] = [
  { owner: 'pod', kind: 'control', base: 0, bytes: 100, state: 'held', epoch: 1 },
  { owner: 'npu/0', kind: 'hbm', base: 100, bytes: 600, state: 'held', epoch: 2 },
  { owner: 'die/1', kind: 'hbm', base: 700, bytes: 300, state: 'quarantined', epoch: 1 },
];

const THREADS: readonly ThreadStats[] = [
  { thread: 0, name: 'caller', state: 'held', epoch: 1, wakes: 5, waits_for: [] },
  { thread: 3, name: 'thread/3', state: 'quarantined', epoch: 2, wakes: 0, waits_for: [] },
];

const SILENT_LINK: LinkStats = {
  ...{ from: 'caller', to: 'control', lane: 'control', frames: 0, bytes: 0, full: 0, wakes: 0, waiting: 0, waiting_bytes: 0, stalled_ms: 0 },
  ...{
    ring_free_bytes: 64,
    slab_free_bytes: 0,
    slab_bytes: 0,
    slab_bytes_max: 0,
    received_frames: 0,
    received_bytes: 0,
    stale: 0,
    latencies_us: [],
    latency_us_sum: 0,
  },
};
const RECEIVED = { received_frames: 6, received_bytes: 80, stale: 3, latencies_us: [0, 2, 3, 1], latency_us_sum: 14 };
/** One that has carried something, and one that has not. */
const LINKS: readonly LinkStats[] = [
  SILENT_LINK,
  { ...SILENT_LINK, lane: 'data', frames: 7, bytes: 90, full: 2, wakes: 5, waiting: 1, stalled_ms: 1_500, slab_free_bytes: 32, ...RECEIVED },
];
const ONE_GROUP = { attention: 1, experts: null };

export class FakePod implements Pod {
  readonly model: ModelInfo;
  faults: Faults;
  cancelled = 0;
  readonly scale = async ({ attention = 1 }: { attention?: number | undefined }) => ({ ...ONE_GROUP, attention, was: ONE_GROUP, duration_ms: 1 });
  chunks_given = 0;
  running = 0;
  closed = false;
  readonly contexts: ContextInfo[] = [];
  kv_events: { first: number; batches: (readonly KvEvent[])[] } = { first: 0, batches: [] };
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
  suspicions: PodStats['suspicions'] = { counts: { given_up: 0, over: 0, no_spare_seat: 0, control_thread: 0 }, standing: [] };
  async rebalance({ force = false }: RebalanceOptions = {}): Promise<readonly RebalanceReport[]> {
    return [fakeRebalance(force)];
  }

  async resetPrefixCache(): Promise<void> {}

  async kvEvents(dp_group: number, from = 0): Promise<KvEventPage> {
    if (dp_group > 0) throw new MinipodError('invalid_request', `dp_group: there is no DP group ${dp_group}`, { param: 'dp_group' });
    const { first, batches } = this.kv_events;
    const skipped = Math.max(0, from - first);
    return { batches: batches.slice(skipped, skipped + 2).map((events, index) => ({ seq: first + skipped + index, events })), next: first + batches.length };
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
    const npu = {
      npu: 0,
      kind: 'attention' as const,
      worker: 0,
      state: 'idle',
      kv_blocks: 100,
      kv_blocks_used: this.running,
      requests_running: this.running,
      requests_waiting: 0,
    };
    const figures = {
      ...{ role: 'colocated' as const, requests_running: this.running, requests_waiting: 0, requests_finished: this.finished },
      ...{ prompt_tokens: this.prompt_tokens, generation_tokens: this.generation_tokens, kv_blocks: 100, kv_blocks_used: this.running },
      ...{
        kv_blocks_cached: 1,
        prefix_queries: 40,
        prefix_hits: 16,
        preemptions: 0,
        drafting: { drafts: 4, draft_tokens: 9, accepted_tokens: 5, accepted_at: [3, 2] },
      },
      ...{ kv_lent: 2, kv_expected: 1, kv_leases_expired: 3 },
      ...{ remote_hits: 4, remote_hits_refused: 5, remote_hits_missed: 6 },
    };
    return {
      model: this.model.name,
      uptime_seconds: 1,
      requests_running: this.running,
      requests_waiting: 0,
      requests_finished: this.finished,
      prompt_tokens: this.prompt_tokens,
      generation_tokens: this.generation_tokens,
      kv_block_size: 16,
      task_executors: [{ ...figures, task_executor: 0, dp_groups: [0] }],
      dp_groups: [
        { ...figures, dp_group: 0, task_executor: 0, npus: [0] },
        ...(this.faults.disaggregated ? [{ ...figures, dp_group: 1, task_executor: 1, npus: [1] }] : []),
      ],
      npus: [
        {
          ...npu,
          steps: 0,
          ...{ tokens_prefilled: 0, tokens_decoded: 0 },
          ...{ preemptions: 0, drafting: NO_DRAFTS },
          kv_blocks_cached: 1,
          kv_blocks_mapped_out: 0,
          prefix_queries: 40,
          prefix_hits: 16,
          kv_lent: 2,
          kv_expected: 1,
          kv_leases_expired: 3,
          kv_transfers_open: 2,
          dram_blocks_used: 0,
          blocks_swapped_out: 0,
          blocks_swapped_in: 0,
          hits_refused: 0,
          blocks_populated: 0,
          blocks_lent: 0,
          ...{ remote_hits: 0, remote_hits_refused: 0, remote_hits_missed: 0 },
          die: 0,
          kv_blocks_held: 2,
          kv_blocks_held_max: 3,
          fields_written: 40,
          fields_stale: 1,
          dispatches_written: 21,
          dispatches_served: 19,
          dispatches_refused: 4,
          pulled_bytes: 5_120,
          reply_bytes: 256,
          reply_bytes_max: 768,
          decode_steps_us: [0, 0, 3, 1],
          decode_steps_us_sum: 17,
          step_gaps_us: [2, 1],
          step_gaps_us_sum: 2.5,
          hbm_bytes: 0,
        },
      ],
      kv_links: [{ source: 0, target: 1, fabric: 'tcp', started: 9, done: 6, bytes: 4_096, wasted_bytes: 512, failed: { refused: 2, stale: 0 }, ...PROBES }],
      ...{ expert_loads: [], scaling: null, expert_balancing: this.balancing, suspicions: this.suspicions, recoveries: [], loops: this.loops },
      ...{ fabric: { links: LINKS, threads: THREADS }, unexpected_messages: [], memory: { total_bytes: 1_000, regions: REGIONS } },
      garbage: [{ worker: 0, collections: 5, collections_chosen: 3, collections_us_sum: 9_000, collections_us_max: 4_000 }],
    };
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

  #note({ choice: index, finish_reason }: Chunk): void {
    const choice = this.#choices[index];
    if (choice === undefined) return;
    const now = performance.now();
    if (choice.prefill_group !== null && this.#faults.disaggregated) choice.moved ??= now;
    choice.prefill_group ??= 0;
    choice.decode_group = choice.moved === null ? 0 : 1;
    choice.first_token ??= now;
    if (finish_reason !== null) choice.finished = now;
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
        const chunk = writer.step();
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
