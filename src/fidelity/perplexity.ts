/**
 * How well a model foresees a text, as a pod serves it: the log-probability of each token under those before it.
 * @module
 */
import { exp } from '../model/kernels/float64.ts';
import { resolveModel } from '../model/registry.ts';
import { loadTokenizer } from '../model/tokenizer.ts';
import type { Pod } from '../pod.ts';
import { assert } from '../protocol/errors.ts';
import { cutText, type TextPart, type TextWindow } from './text-windows.ts';

export type Perplexity = {
  /** e to the mean of −ln p over the scored tokens. */
  readonly perplexity: number;
  /** −log₂ p of all scored tokens, for each byte of theirs: comparable between tokenizers. */
  readonly bits_per_byte: number;
  readonly tokens: number;
  readonly bytes: number;
  readonly windows: number;
  readonly window: number;
  readonly stride: number;
};

export type PerplexityOptions = TextPart & {
  /** The model that the pod serves, as its name or folder: its tokenizer cuts the text. */
  readonly model: string;
  readonly text: string;
  readonly signal?: AbortSignal | undefined;
  /** Told after each window. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
};

/** Windows under way at once, for each DP group: the next one waits in the queue while one is computed. */
const WINDOWS_PER_GROUP = 2;

/** `nats`: sum of −ln p over all that was cut. */
export function perplexityFrom(nats: number, cut: { tokens: number; bytes: number; window: number; stride: number; windows: readonly unknown[] }): Perplexity {
  const { tokens, bytes, window, stride, windows } = cut;
  return { perplexity: exp(nats / tokens), bits_per_byte: nats / Math.LN2 / bytes, tokens, bytes, windows: windows.length, window, stride };
}

/** @throws `invalid_request` for a text, window or stride that cannot be, and as `pod.complete` does */
export async function perplexityOf(pod: Pod, options: PerplexityOptions): Promise<Perplexity> {
  const tokenizer = await loadTokenizer(resolveModel(options.model));
  // A request generates one token at least, which takes a position too.
  const cut = cutText(options.text, tokenizer, pod.model.context_length - 1, options);
  const { dp_groups } = await pod.stats();
  const nats: number[] = [];
  let next = 0;
  let done = 0;
  const reader = async (): Promise<void> => {
    while (next < cut.windows.length) {
      const index = next++;
      nats[index] = await natsOf(pod, cut.windows[index] as TextWindow, options.signal);
      options.onProgress?.(++done, cut.windows.length);
    }
  };
  await Promise.all(Array.from({ length: WINDOWS_PER_GROUP * dp_groups.length }, reader));
  // In the order of the text, whatever the order in which they came.
  return perplexityFrom(
    nats.reduce((sum, of) => sum + of, 0),
    cut,
  );
}

/** Sum of −ln p over what of a window is scored. */
export async function natsOf(pod: Pod, { ids, scored_from }: TextWindow, signal?: AbortSignal): Promise<number> {
  const { prompt } = await pod.complete(ids, { max_tokens: 1, temperature: 0, ignore_eos: true, prompt_logprobs: 0, signal });
  const { logprobs } = prompt;
  assert(logprobs !== null && logprobs.length === ids.length, 'log-probabilities of the prompt were asked for');
  return logprobs.slice(scored_from).reduce((sum, token) => sum - (token?.logprob ?? Number.NaN), 0);
}
