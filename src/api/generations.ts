/**
 * The generations of one HTTP request (one for each prompt), started together, read as one stream, and ended together.
 * @module
 */
import type { GenerateOptions } from '../options/options.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Prompt } from '../protocol/prompt.ts';
import type { ChoiceTimes, Chunk, Generation, PromptInfo, Usage } from '../results.ts';
import type { Lease } from './admission.ts';
import type { Observer } from './metrics.ts';
import type { Call, Service } from './service.ts';
import type { SpanObserver, TracedCall } from './traces.ts';
import { sumOfDrafts } from './usage.ts';

/** One chunk; `choice` counts over the whole request: prompt × n + the prompt's own choice. */
export type Piece = { readonly prompt: number; readonly choice: number; readonly chunk: Chunk };

export type Generations = {
  readonly pieces: AsyncGenerator<Piece>;
  /** Complete before the first piece of that prompt. */
  prompt(index: number): Promise<PromptInfo>;
  /** Of all prompts, in the order of the answer's choices. */
  choices(): readonly ChoiceTimes[];
  /** Summed over all prompts. */
  usage(): Omit<Usage, 'total_tokens'>;
  /** Said of answers that were computed without all experts, so far; nothing of others. */
  degraded(): { readonly degraded?: true };
};

export function startGenerations(service: Service, lease: Lease, prompts: readonly Prompt[], options: GenerateOptions, call: Call & TracedCall): Generations {
  const generations: Generation[] = [];
  const observers: Observer[] = [];
  const spans: (SpanObserver | null)[] = [];
  try {
    for (const prompt of prompts) {
      const generation = service.pod.generate(prompt, { ...options, data_parallel_rank: call.data_parallel_rank, signal: lease.signal });
      // Who needs the prompt awaits it again; unasked for, its failure is the iteration's as well.
      generation.prompt.catch(() => {});
      generations.push(generation);
      observers.push(service.metrics.observe(generation, options));
      spans.push(service.traces?.observe(generation, options, call) ?? null);
    }
  } catch (error) {
    for (const generation of generations) leave(generation[Symbol.asyncIterator]());
    throw error;
  }
  return {
    pieces: merge(lease, generations, observers, spans, options),
    prompt: (index) => generations[index]?.prompt ?? Promise.reject(new RangeError(`prompt ${index} of ${generations.length}`)),
    choices: () => generations.flatMap((generation) => generation.choices()),
    degraded: () => (generations.some(({ degraded }) => degraded) ? { degraded: true } : {}),
    usage() {
      const all = generations.map((generation) => generation.usage());
      return {
        prompt_tokens: all.reduce((sum, one) => sum + one.prompt_tokens, 0),
        completion_tokens: all.reduce((sum, one) => sum + one.completion_tokens, 0),
        cached_tokens: all.reduce((sum, one) => sum + one.cached_tokens, 0),
        ...sumOfDrafts(all.map(({ drafted }) => drafted)),
      };
    },
  };
}

type Arrival = { readonly prompt: number; readonly result: IteratorResult<Chunk> } | { readonly error: unknown };

/** Chunks in the order in which they arrive. At most one is asked of each generation ahead of the reader; the first failure ends them all. */
async function* merge(
  lease: Lease,
  generations: readonly Generation[],
  observers: readonly Observer[],
  spans: (SpanObserver | null)[],
  options: GenerateOptions,
): AsyncGenerator<Piece> {
  const { signal } = lease;
  const n = options.n ?? 1;
  let open = generations.length;
  const iterators = generations.map((generation) => generation[Symbol.asyncIterator]());
  const arrivals: Arrival[] = [];
  const endSpan = (prompt: number, error: unknown): void => {
    spans[prompt]?.end(error);
    spans[prompt] = null;
  };
  let failure: unknown = new MinipodError('cancelled', 'the client went away');
  let wake = (): void => {};
  const arrive = (arrival: Arrival): void => {
    arrivals.push(arrival);
    wake();
  };
  const ask = (prompt: number): void => {
    iterators[prompt]?.next().then(
      (result) => arrive({ prompt, result }),
      (error) => arrive({ error }),
    );
  };
  // A pod that no longer answers must not hold the HTTP request as well.
  const onAbort = (): void => arrive({ error: signal.reason });
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) throw signal.reason;
    for (let prompt = 0; prompt < iterators.length; prompt++) ask(prompt);
    while (open > 0) {
      const arrival = arrivals.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      // Asked to end, by the client or by the server: that is the reason to give, whatever the pod makes of it.
      if (signal.aborted) throw signal.reason;
      if ('error' in arrival) throw arrival.error;
      const { prompt, result } = arrival;
      if (result.done) {
        observers[prompt]?.finish();
        endSpan(prompt, null);
        open--;
        continue;
      }
      yield { prompt, choice: prompt * n + result.value.choice, chunk: result.value };
      ask(prompt);
    }
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
    // return() of a generation waits for its pending next(), so the signal goes first.
    if (open > 0) lease.cancel(new MinipodError('cancelled', 'the rest of the same HTTP request ended'));
    for (const iterator of iterators) leave(iterator);
    for (let prompt = 0; prompt < spans.length; prompt++) endSpan(prompt, failure);
  }
}

/** Leaving a generation early cancels it; one that has ended does not mind. */
function leave(iterator: AsyncIterator<Chunk>): void {
  iterator.return?.().catch(() => {});
}

/** All pieces of each choice joined into one, as if it had come at once. */
export async function collect(pieces: AsyncIterable<Piece>): Promise<Piece[]> {
  const choices = new Map<number, { prompt: number; texts: string[]; token_ids: number[]; logprobs: NonNullable<Chunk['logprobs']>[number][]; last: Chunk }>();
  for await (const { prompt, choice, chunk } of pieces) {
    let joined = choices.get(choice);
    if (joined === undefined) {
      joined = { prompt, texts: [], token_ids: [], logprobs: [], last: chunk };
      choices.set(choice, joined);
    }
    joined.texts.push(chunk.text);
    for (const id of chunk.token_ids) joined.token_ids.push(id);
    for (const logprob of chunk.logprobs ?? []) joined.logprobs.push(logprob);
    joined.last = chunk;
  }
  return [...choices]
    .sort(([a], [b]) => a - b)
    .map(([choice, { prompt, texts, token_ids, logprobs, last }]) => ({
      prompt,
      choice,
      chunk: { ...last, text: texts.join(''), token_ids, logprobs: last.logprobs === null ? null : logprobs },
    }));
}
