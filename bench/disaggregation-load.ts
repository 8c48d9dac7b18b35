/**
 * Requests that arrive by a clock, and when each of their tokens came: the load of disaggregation.ts.
 *
 *   trace (bench/data) ─▶ lengths scaled to the model's context, arrivals to a rate ─▶ play ─▶ Served: when asked, scheduled, each token
 * @module
 */
import { readFileSync } from 'node:fs';
import type { Pod } from '../src/index.ts';

export const TRACES = ['azure-2023-code', 'mooncake-synthetic'] as const;
export type TraceName = (typeof TRACES)[number];

/** `at`: in units of the mean distance between two of the trace. */
export type Shape = { readonly at: number; readonly prompt: number; readonly output: number };
export type Arrival = { readonly at_ms: number; readonly prompt: readonly number[]; readonly max_tokens: number };
/** Milliseconds of `performance.now()`. */
export type Served = { readonly asked: number; readonly scheduled: number; readonly tokens: readonly number[] };

/** The longest of a hundred would make all others tiny: they are left out. */
const KEPT = 0.99;

/** The first requests of a trace, all lengths by the one factor by which the longest of those that are kept fits the context. */
export function shapesOf(trace: TraceName, count: number, context: number): Shape[] {
  const text = readFileSync(new URL(`data/${trace}.csv`, import.meta.url), 'utf8');
  const all = text
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(',').map(Number) as [number, number, number]);
  const sums = all.map(([, input, output]) => input + output).toSorted((a, b) => a - b);
  const longest = sums[Math.floor(KEPT * (sums.length - 1))] as number;
  const kept = all.filter(([, input, output]) => input + output <= longest).slice(0, count);
  const scaled = (length: number): number => Math.max(1, Math.round((length * (context - 2)) / longest));
  const mean_ms = ((kept.at(-1)?.[0] ?? 0) - (kept[0]?.[0] ?? 0)) / (kept.length - 1);
  return kept.map(([at_ms, input, output]) => ({ at: (at_ms - (kept[0]?.[0] ?? 0)) / mean_ms, prompt: scaled(input), output: scaled(output) }));
}

let prompts = 0;
/** No two begin alike, so that no prefix is found. */
const newPrompt = (length: number): number[] => {
  const prompt = ++prompts;
  return Array.from({ length }, (_, index) => 3 + ((prompt * 7_919 + index * (104_729 + prompt)) % 1_900));
};

/** Arrivals at so many a second; 0: all at once. */
export const arrivalsOf = (shapes: readonly Shape[], requests_per_s: number): Arrival[] =>
  shapes.map(({ at, prompt, output }) => ({
    at_ms: requests_per_s === 0 ? 0 : (at * 1_000) / requests_per_s,
    prompt: newPrompt(prompt),
    max_tokens: output,
  }));

/** Asks for each when its time has come, whatever has become of those before it. */
export async function play(pod: Pod, arrivals: readonly Arrival[]): Promise<Served[]> {
  const start = performance.now();
  return Promise.all(
    arrivals.map(async ({ at_ms, prompt, max_tokens }) => {
      const wait_ms = start + at_ms - performance.now();
      if (wait_ms > 0) await new Promise((resolve) => setTimeout(resolve, wait_ms));
      const asked = performance.now();
      const generation = pod.generate(prompt, { max_tokens, temperature: 0, ignore_eos: true });
      const tokens: number[] = [];
      for await (const { token_ids } of generation) for (const _ of token_ids) tokens.push(performance.now());
      const { received, scheduled } = generation.times();
      // The pod's clock has another origin.
      return { asked, scheduled: asked + ((scheduled ?? received) - received), tokens };
    }),
  );
}

export const firstToken = ({ asked, tokens }: Served): number => (tokens[0] as number) - asked;
/** Job completion time. */
export const completion = ({ asked, tokens }: Served): number => (tokens.at(-1) as number) - asked;

/** Of all requests: from the first that was asked to the last token. */
export function span_s(served: readonly Served[]): number {
  return (Math.max(...served.map(({ tokens }) => tokens.at(-1) as number)) - Math.min(...served.map(({ asked }) => asked))) / 1_000;
}

/** Gaps between two tokens of one request during which the prompt of another one was computed, for some of the time at least. */
export function gapsBesidePrefill(served: readonly Served[]): number[] {
  const prefills = served.map(({ scheduled, tokens }) => ({ from: scheduled, to: tokens[0] as number }));
  const gaps: number[] = [];
  for (const [own, { tokens }] of served.entries())
    for (let next = 1; next < tokens.length; next++) {
      const [from, to] = [tokens[next - 1] as number, tokens[next] as number];
      if (prefills.some((prefill, other) => other !== own && prefill.from < to && prefill.to > from)) gaps.push(to - from);
    }
  return gaps;
}

/** The value that a share of all does not exceed. */
export const quantile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))] ?? Number.NaN;
export const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
