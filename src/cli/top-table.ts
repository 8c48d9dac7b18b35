/**
 * What the engines (DP groups) of a server do, from two looks at its /metrics: how much waits and runs now, and what counters and histograms have grown by
 * between the looks.
 * @module
 */
import { type Column, NONE, roundRate, tablesWithin } from './columns.ts';
import { readMetrics, type Sample } from './prometheus-text.ts';

/** `at_ms`: when it was taken, on any steady clock. */
export type Look = { readonly at_ms: number; readonly samples: readonly Sample[] };

/** Seconds; null where nothing of the kind happened between the looks. `p99_at_most`: a bound of the histogram's, null beyond its last one. */
export type Latency = { readonly mean: number; readonly p50_at_most: number | null; readonly p99_at_most: number | null } | null;

export type EngineLook = {
  readonly engine: string;
  /** Null: the server does not say. */
  readonly task_executor: string | null;
  readonly role: string | null;
  readonly requests_running: number;
  readonly requests_waiting: number;
  /** 1 is all of it. */
  readonly kv_cache_usage: number;
  /** Of the prompt tokens looked up between the looks; null: none were. */
  readonly prefix_cache_hit_rate: number | null;
  readonly prompt_tokens_per_second: number;
  readonly generation_tokens_per_second: number;
  readonly time_to_first_token_seconds: Latency;
  /** vLLM's inter-token latency: the time per output token after the first. */
  readonly inter_token_latency_seconds: Latency;
};

export const lookAt = (metrics: string, at_ms: number): Look => ({ at_ms, samples: readMetrics(metrics) });

export const modelOf = ({ samples }: Look): string => samples.find(({ labels }) => labels['model_name'] !== undefined)?.labels['model_name'] ?? NONE;

export function enginesOf(earlier: Look, now: Look): EngineLook[] {
  const engines = [...new Set(now.samples.flatMap(({ name, labels }) => (name === 'vllm:num_requests_running' ? [labels['engine'] ?? '0'] : [])))];
  return engines.sort((a, b) => Number(a) - Number(b)).map((engine) => engineOf(engine, only(engine, earlier), only(engine, now)));
}

/** Of all times. */
export const controlThreadsLost = (look: Look): number => figureIn(look, 'minipod:control_threads_lost_total');

/** A look at one engine. A server that does not tell engines apart has one. */
const only = (engine: string, { at_ms, samples }: Look): Look => ({ at_ms, samples: samples.filter(({ labels }) => (labels['engine'] ?? '0') === engine) });

const figureIn = ({ samples }: Look, name: string): number => samples.find((sample) => sample.name === name)?.value ?? 0;

/** A counter that is lower than before began anew, with its server or with its worker. */
function growth(earlier: Look, now: Look, name: string): number {
  const [before, after] = [figureIn(earlier, name), figureIn(now, name)];
  return after < before ? after : after - before;
}

function engineOf(engine: string, earlier: Look, now: Look): EngineLook {
  const info = now.samples.find(({ name }) => name === 'minipod:dp_group_info')?.labels;
  const seconds = Math.max((now.at_ms - earlier.at_ms) / 1000, 1e-3);
  const queries = growth(earlier, now, 'vllm:prefix_cache_queries_total');
  return {
    engine,
    task_executor: info?.['task_executor'] ?? null,
    role: info?.['role'] ?? null,
    requests_running: figureIn(now, 'vllm:num_requests_running'),
    requests_waiting: figureIn(now, 'vllm:num_requests_waiting'),
    kv_cache_usage: figureIn(now, 'vllm:kv_cache_usage_perc'),
    prefix_cache_hit_rate: queries === 0 ? null : growth(earlier, now, 'vllm:prefix_cache_hits_total') / queries,
    prompt_tokens_per_second: growth(earlier, now, 'vllm:prompt_tokens_total') / seconds,
    generation_tokens_per_second: growth(earlier, now, 'vllm:generation_tokens_total') / seconds,
    time_to_first_token_seconds: latency(earlier, now, 'vllm:time_to_first_token_seconds'),
    inter_token_latency_seconds: latency(earlier, now, 'vllm:inter_token_latency_seconds'),
  };
}

function latency(earlier: Look, now: Look, name: string): Latency {
  const count = growth(earlier, now, `${name}_count`);
  if (count === 0) return null;
  const bucketsOf = ({ samples }: Look) => samples.filter((sample) => sample.name === `${name}_bucket`);
  const hasBegunAnew = figureIn(now, `${name}_count`) < figureIn(earlier, `${name}_count`);
  const before = new Map(hasBegunAnew ? [] : bucketsOf(earlier).map(({ labels, value }) => [labels['le'], value]));
  const grown = bucketsOf(now).map(({ labels, value }) => ({
    bound: Number(labels['le']?.replace('+Inf', 'Infinity')),
    count: value - (before.get(labels['le']) ?? 0),
  }));
  const boundOf = (share: number): number | null => {
    const bound = grown.sort((a, b) => a.bound - b.bound).find((bucket) => bucket.count >= share * count)?.bound;
    return bound === undefined || bound === Number.POSITIVE_INFINITY ? null : bound;
  };
  return { mean: growth(earlier, now, `${name}_sum`) / count, p50_at_most: boundOf(0.5), p99_at_most: boundOf(0.99) };
}

const percent = (share: number | null): string => (share === null ? NONE : `${(100 * share).toFixed(1)} %`);
const meanText = (value: Latency): string => (value === null ? NONE : (1000 * value.mean).toFixed(1));
const p99Text = (value: Latency): string => (value === null ? NONE : value.p99_at_most === null ? 'more' : `≤ ${1000 * value.p99_at_most}`);

const COLUMNS: readonly Column<EngineLook>[] = [
  ['ENGINE', ({ engine }) => engine],
  ['TE', ({ task_executor }) => task_executor ?? NONE],
  ['ROLE', ({ role }) => role ?? NONE],
  ['RUNNING', ({ requests_running }) => requests_running],
  ['WAITING', ({ requests_waiting }) => requests_waiting],
  ['KV USE', ({ kv_cache_usage }) => percent(kv_cache_usage)],
  ['HIT RATE', ({ prefix_cache_hit_rate }) => percent(prefix_cache_hit_rate)],
  ['PROMPT TOKENS/S', ({ prompt_tokens_per_second }) => roundRate(prompt_tokens_per_second)],
  ['TOKENS/S', ({ generation_tokens_per_second }) => roundRate(generation_tokens_per_second)],
  ['TTFT ms', ({ time_to_first_token_seconds }) => meanText(time_to_first_token_seconds)],
  ['P99', ({ time_to_first_token_seconds }) => p99Text(time_to_first_token_seconds)],
  ['TPOT ms', ({ inter_token_latency_seconds }) => meanText(inter_token_latency_seconds)],
  ['P99', ({ inter_token_latency_seconds }) => p99Text(inter_token_latency_seconds)],
];

/** A line an entry. `wide`: what a terminal shows of a line. */
export function topLines(url: string, earlier: Look, now: Look, wide = Number.POSITIVE_INFINITY): string[] {
  const engines = enginesOf(earlier, now);
  const sum = (figure: 'requests_running' | 'requests_waiting' | 'generation_tokens_per_second'): number =>
    engines.reduce((total, engine) => total + engine[figure], 0);
  const lost = controlThreadsLost(now);
  const head = [
    `${modelOf(now)} on ${url}`,
    `${sum('requests_running')} running, ${sum('requests_waiting')} waiting`,
    `${roundRate(sum('generation_tokens_per_second'))} tokens/s`,
    `rates over ${((now.at_ms - earlier.at_ms) / 1000).toFixed(1)} s`,
    ...(lost === 0 ? [] : [`control thread lost ${lost === 1 ? 'once' : `${lost} times`}`]),
  ].join('; ');
  return [head, '', ...tablesWithin(wide, engines, COLUMNS, 10)];
}
