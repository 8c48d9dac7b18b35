/**
 * Prometheus metrics under vLLM's names, labels and buckets, so that what scrapes vLLM scrapes minipod: gauges and counters are the pod's own figures at the
 * moment of the scrape, histograms are filled as requests of this API get their first token (TTFT), get others (ITL), or have ended (all else). `engine` is the DP
 * group, as in vLLM; which task executor it belongs to, and what for, says `minipod:dp_group_info`. What vLLM does not have is `minipod:…`: memory, links and XCCL.
 * @module
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { GenerateOptions } from '../options/options.ts';
import type { Generation } from '../results.ts';
import type { DpGroupStats, PodExperts, PodStats } from '../stats.ts';
import { balancingMetrics } from './balancing-metrics.ts';
import { controlMetrics } from './control-metrics.ts';
import { distflowMetrics } from './distflow-metrics.ts';
import { draftMetrics } from './draft-metrics.ts';
import { type ExpertMetrics, expertMetrics } from './expert-metrics.ts';
import { fabricMetrics } from './fabric-metrics.ts';
import { loopMetrics } from './loop-metrics.ts';
import { suspicionMetrics } from './suspicion-metrics.ts';

/** Seconds; vLLM's. */
const TTFT_BUCKETS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
const TPOT_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const PHASE_BUCKETS = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const N_BUCKETS = [1, 2, 5, 10, 20];

/** 1, 2, 5, 10, 20, 50 … up to the context length. */
function tokenBuckets(contextLength: number): number[] {
  const buckets: number[] = [];
  for (let decade = 1; decade <= contextLength; decade *= 10) for (const step of [1, 2, 5]) if (step * decade <= contextLength) buckets.push(step * decade);
  return buckets;
}

/** The pod's words for how a request ended → vLLM's. Words of neither are passed on as they are. */
const FINISHED_REASONS: Readonly<Record<string, string>> = { stop: 'stop', length: 'length', cancelled: 'abort', failed: 'error' };

/** Follows one generation, by when its tokens come, whenever they are read, and enters it when it has finished. */
export type Observer = { finish(): void };

/** What is told of experts, and in which detail; `onTooMany`: those by expert would be so many series, and are left out. */
export type LookedAtExperts = { readonly experts: PodExperts; readonly detail: ExpertMetrics; readonly onTooMany: (series: number) => void };

export type Metrics = {
  /** Called as the generation begins. */
  observe(generation: Generation, options: GenerateOptions): Observer;
  /** Prometheus' text format. `experts`: null where they are not told of. */
  render(stats: PodStats, experts?: LookedAtExperts | null): Promise<string>;
  readonly content_type: string;
};

export function createMetrics(model_name: string, context_length: number): Metrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model_name });
  const registers = [registry];
  const labelNames = ['engine'] as const;
  const gauge = (name: string, help: string) => new Gauge({ name: `vllm:${name}`, help, labelNames, registers });
  const counter = (name: string, help: string) => new Counter({ name: `vllm:${name}`, help, labelNames, registers });
  const histograms: Histogram<'engine'>[] = [];
  const histogram = (name: string, help: string, buckets: number[]) => {
    const made = new Histogram({ name: `vllm:${name}`, help, labelNames, buckets, registers });
    histograms.push(made);
    return made;
  };

  const running = gauge('num_requests_running', 'Requests that steps of the engine work on.');
  const waiting = gauge('num_requests_waiting', 'Requests that wait to be scheduled.');
  const kvUsage = gauge('kv_cache_usage_perc', 'Share of KV blocks in use; 1 is all.');
  const promptTokens = counter('prompt_tokens_total', 'Prompt tokens processed.');
  const generationTokens = counter('generation_tokens_total', 'Tokens generated.');
  const preemptions = counter('num_preemptions_total', 'Requests preempted.');
  const prefixQueries = counter('prefix_cache_queries_total', 'Tokens looked up in the prefix cache.');
  const prefixHits = counter('prefix_cache_hits_total', 'Tokens found in the prefix cache.');
  const success = new Counter({
    name: 'vllm:request_success_total',
    help: 'Requests by how they ended; without `engine` those that ended before any had answered.',
    labelNames: ['engine', 'finished_reason'],
    registers,
  });
  const cache = new Gauge({
    name: 'vllm:cache_config_info',
    help: 'The KV cache of an engine.',
    labelNames: ['engine', 'block_size', 'num_gpu_blocks'],
    registers,
  });
  const groupInfo = new Gauge({
    name: 'minipod:dp_group_info',
    help: 'Which task executor an engine belongs to, what that is for, and on which NPUs the engine runs; none of an engine that is gone.',
    labelNames: ['engine', 'task_executor', 'role', 'npus'],
    registers,
  });

  const tokens = tokenBuckets(context_length);
  const ttft = histogram('time_to_first_token_seconds', 'From a request received to its first token.', TTFT_BUCKETS);
  const itl = histogram(
    'inter_token_latency_seconds',
    'Between one token and the next, as they come to the API, whenever its client reads them.',
    TPOT_BUCKETS,
  );
  const tpotOldName = histogram('time_per_output_token_seconds', 'The older name of inter_token_latency_seconds.', TPOT_BUCKETS);
  const tpot = histogram('request_time_per_output_token_seconds', 'Mean time per token after the first, of each request.', TPOT_BUCKETS);
  const e2e = histogram('e2e_request_latency_seconds', 'From a request received to its end.', PHASE_BUCKETS);
  const queue = histogram('request_queue_time_seconds', 'Waiting to be scheduled.', PHASE_BUCKETS);
  const inference = histogram('request_inference_time_seconds', 'From scheduled to the end.', PHASE_BUCKETS);
  const prefill = histogram('request_prefill_time_seconds', 'From scheduled to the first token.', PHASE_BUCKETS);
  const decode = histogram('request_decode_time_seconds', 'From the first token to the end.', PHASE_BUCKETS);
  const requestPrompt = histogram('request_prompt_tokens', 'Prompt tokens of a request.', tokens);
  const prefillComputed = histogram('request_prefill_kv_computed_tokens', 'Prompt tokens of a request whose KV was computed anew.', tokens);
  const requestGeneration = histogram('request_generation_tokens', 'Tokens generated for a choice.', tokens);
  const maxGeneration = histogram('request_max_num_generation_tokens', 'Tokens generated for the longest choice of a request.', tokens);
  const paramsMaxTokens = histogram('request_params_max_tokens', 'max_tokens of a request.', tokens);
  const paramsN = histogram('request_params_n', 'n of a request.', N_BUCKETS);

  const known = new Set<string>();
  /** Each histogram of an engine is there before its first observation, which zeroing would undo. */
  const begin = (engine: string): void => {
    if (known.has(engine)) return;
    known.add(engine);
    for (const one of histograms) one.zero({ engine });
  };
  /** No label for what no DP group is known of. */
  const engineOf = (group: number | null | undefined): { engine?: string } => {
    if (group === null || group === undefined) return {};
    begin(String(group));
    return { engine: String(group) };
  };

  const observe = (generation: Generation, options: GenerateOptions): Observer => {
    const arrived = new Map<number, { at_ms: number; tokens: number }>();
    // As vLLM does: whoever looks on hears of requests that stream for minutes, and of those whose client leaves.
    const begins = (choice: number): void => {
      const { received, first_token } = generation.times();
      if (first_token !== null) ttft.observe(engineOf(generation.choices()[choice]?.prefill_group), (first_token - received) / 1000);
    };
    generation.onTokens((choice, count, now_ms) => {
      if (arrived.size === 0) begins(choice);
      const before = arrived.get(choice);
      arrived.set(choice, { at_ms: now_ms, tokens: (before?.tokens ?? 0) + count });
      if (before === undefined) return;
      const seconds = (now_ms - before.at_ms) / 1000 / count;
      const engine = engineOf(generation.choices()[choice]?.decode_group);
      for (let i = 0; i < count; i++) {
        itl.observe(engine, seconds);
        tpotOldName.observe(engine, seconds);
      }
    });
    return {
      finish() {
        const { received, scheduled, first_token, finished } = generation.times();
        const { prompt_tokens, cached_tokens } = generation.usage();
        const [first] = generation.choices();
        // What prefill is answerable for, and what decode is.
        const [prefiller, decoder] = [engineOf(first?.prefill_group), engineOf(first?.decode_group)];
        e2e.observe(decoder, (finished - received) / 1000);
        if (scheduled !== null) {
          queue.observe(prefiller, (scheduled - received) / 1000);
          inference.observe(decoder, (finished - scheduled) / 1000);
          if (first_token !== null) prefill.observe(prefiller, (first_token - scheduled) / 1000);
        }
        let longest = 0;
        for (const [choice, { tokens: count }] of arrived) {
          longest = Math.max(longest, count);
          requestGeneration.observe(engineOf(generation.choices()[choice]?.decode_group), count);
        }
        if (first_token !== null) {
          decode.observe(decoder, (finished - first_token) / 1000);
          if (longest > 1) tpot.observe(decoder, (finished - first_token) / 1000 / (longest - 1));
        }
        requestPrompt.observe(prefiller, prompt_tokens);
        prefillComputed.observe(prefiller, prompt_tokens - cached_tokens);
        maxGeneration.observe(decoder, longest);
        if (options.max_tokens !== undefined) paramsMaxTokens.observe(prefiller, options.max_tokens);
        paramsN.observe(prefiller, options.n ?? 1);
      },
    };
  };

  const takeOverFabric = fabricMetrics(registry);
  const takeOverBalancing = balancingMetrics(registry);
  const takeOverLoops = loopMetrics(registry);
  const takeOverSuspicions = suspicionMetrics(registry);
  const takeOverControl = controlMetrics(registry);
  const takeOverDistflow = distflowMetrics(registry);
  const takeOverDrafts = draftMetrics(registry);
  let takeOverExperts: ReturnType<typeof expertMetrics> | null = null;
  const counters = new Map<Counter<'engine'>, 'prompt_tokens' | 'generation_tokens' | 'preemptions' | 'prefix_queries' | 'prefix_hits'>([
    [promptTokens, 'prompt_tokens'],
    [generationTokens, 'generation_tokens'],
    [preemptions, 'preemptions'],
    [prefixQueries, 'prefix_queries'],
    [prefixHits, 'prefix_hits'],
  ]);

  const takeOver = (stats: PodStats): void => {
    takeOverFabric(stats);
    takeOverDistflow(stats);
    takeOverDrafts(stats);
    takeOverBalancing(stats);
    takeOverSuspicions(stats);
    takeOverControl(stats);
    takeOverLoops(stats);
    for (const metric of [...counters.keys(), success, cache, groupInfo]) metric.reset();
    for (const group of stats.dp_groups) takeOverGroup(group, stats.kv_block_size);
    for (const finished_reason of Object.values(FINISHED_REASONS)) success.inc({ finished_reason }, 0);
    for (const [reason, count] of Object.entries(stats.requests_finished)) {
      const answered = stats.dp_groups.reduce((sum, { requests_finished }) => sum + (requests_finished[reason] ?? 0), 0);
      success.inc({ finished_reason: FINISHED_REASONS[reason] ?? reason }, Math.max(0, count - answered));
    }
  };

  const takeOverGroup = (group: DpGroupStats, block_size: number): void => {
    const engine = String(group.dp_group);
    begin(engine);
    running.set({ engine }, group.requests_running);
    waiting.set({ engine }, group.requests_waiting);
    kvUsage.set({ engine }, group.kv_blocks === 0 ? 0 : group.kv_blocks_used / group.kv_blocks);
    for (const [metric, figure] of counters) metric.inc({ engine }, group[figure]);
    for (const finished_reason of Object.values(FINISHED_REASONS)) success.inc({ engine, finished_reason }, 0);
    for (const [reason, count] of Object.entries(group.requests_finished)) success.inc({ engine, finished_reason: FINISHED_REASONS[reason] ?? reason }, count);
    cache.set({ engine, num_gpu_blocks: String(group.kv_blocks), block_size: String(block_size) }, 1);
    if (!group.gone) groupInfo.set({ engine, task_executor: String(group.task_executor), role: group.role, npus: group.npus.join(',') }, 1);
  };

  return {
    observe,
    content_type: registry.contentType,
    // No await between taking over and collecting: two scrapes at once must not see each other's reset.
    render(stats, looked = null) {
      takeOver(stats);
      if (looked !== null) {
        takeOverExperts ??= expertMetrics(registry);
        const left = takeOverExperts(looked.experts, looked.detail);
        if (left > 0) looked.onTooMany(left);
      }
      return registry.metrics();
    },
  };
}
