/** `minipod generate`: one prompt, continued on standard output as its tokens come. @module */
import { text } from 'node:stream/consumers';
import type { Chunk, GenerateOptions, Generation, Pod, PodOptions, Prompt } from '../index.ts';
import { toErrorRecord } from '../protocol/errors.ts';
import { Interrupt } from './interrupt.ts';
import { openPod } from './open-pod.ts';
import { note, print, printJson, printLine } from './output.ts';
import { UsageError } from './usage-error.ts';

/**
 * What a terminal wants and the API leaves open: an end, and a beginning. Small models like to end after a word: after "Once upon a time" the shipped one
 * sees a full stop and the end at odds of 98 to 2, hence min_tokens.
 */
export const GENERATE_DEFAULTS = { max_tokens: 256, min_tokens: 32, temperature: 0.7 } as const;

export type GenerateCommand = {
  readonly words: readonly string[];
  readonly pod: PodOptions;
  readonly sampling: GenerateOptions;
  readonly json: boolean;
  readonly echo: boolean;
};

export async function generate({ words, pod: podOptions, sampling, json, echo }: GenerateCommand): Promise<number> {
  if (!json && (sampling.logprobs !== undefined || sampling.prompt_logprobs !== undefined))
    throw new UsageError('--logprobs and --prompt-logprobs need --json');
  const prompt = await readPrompt(words);
  await using pod = await openPod(podOptions);
  using interrupt = new Interrupt();
  const limits = await limitsFor(pod, prompt, sampling, GENERATE_DEFAULTS);
  const generation = pod.generate(prompt, { temperature: GENERATE_DEFAULTS.temperature, ...sampling, ...limits, signal: interrupt.signal });
  try {
    if (json) await printChunks(generation, pod);
    else await printText(generation, echo ? prompt : '');
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    await (json ? printJson({ error: toErrorRecord(error) }) : printLine(''));
  }
  return interrupt.exit_code;
}

/** The limits that were given, or the defaults: as far as the context length leaves room, and never past a stop that was asked for. */
export async function limitsFor(
  pod: Pod,
  prompt: string | Exclude<Prompt, string | readonly number[]>,
  { max_tokens, min_tokens, stop, stop_token_ids, add_special_tokens = true }: GenerateOptions,
  defaults: { readonly max_tokens: number; readonly min_tokens: number },
): Promise<{ max_tokens: number; min_tokens: number }> {
  const { token_ids } = await pod.tokenize(prompt, { add_special_tokens });
  const room = Math.max(1, pod.model.context_length - token_ids.length);
  const most = max_tokens ?? Math.min(room, Math.max(defaults.max_tokens, min_tokens ?? 0));
  const hasStop = stop !== undefined || stop_token_ids !== undefined;
  return { max_tokens: most, min_tokens: min_tokens ?? (hasStop ? 0 : Math.min(defaults.min_tokens, most)) };
}

/** The words given; `-` or none: standard input, less the newline that ends it. */
async function readPrompt(words: readonly string[]): Promise<string> {
  const given = words.join(' ');
  if (given !== '' && given !== '-') return given;
  if (given === '' && words.length > 0)
    throw new UsageError('the prompt given as an argument is empty; give at least one character, or - to read standard input');
  if (given === '' && process.stdin.isTTY) throw new UsageError('give a prompt, such as minipod generate "Once upon a time", or pipe one in');
  const prompt = (await text(process.stdin)).replace(/\r?\n$/, '');
  if (prompt === '') throw new UsageError('the prompt on standard input is empty');
  return prompt;
}

/** The first choice as it comes; others, which run at the same time, after it. */
async function printText(generation: Generation, echo: string): Promise<void> {
  const others = new Map<number, string>();
  await print(echo);
  for await (const { choice, text } of generation) {
    if (choice === 0) await print(text);
    else others.set(choice, (others.get(choice) ?? '') + text);
  }
  await printLine('');
  for (const [choice, text] of [...others].sort(([a], [b]) => a - b)) await printLine(`\n[choice ${choice}]\n${echo}${text}`);
  if (process.stderr.isTTY && process.stdout.isTTY) note(summary(generation));
}

function summary(generation: Generation): string {
  const { completion_tokens } = generation.usage();
  const { received, first_token, finished } = generation.times();
  const seconds = (finished - received) / 1000;
  const first = first_token === null ? '' : `, the first after ${Math.round(first_token - received)} ms`;
  return `\n${completion_tokens} tokens in ${seconds.toFixed(2)} s (${Math.round(completion_tokens / seconds)} a second${first}); seed ${generation.seed}`;
}

/** A line for each chunk as the embedded API gives it, then one with what is known at the end. */
async function printChunks(generation: Generation, pod: Pod): Promise<void> {
  for await (const chunk of generation) await printJson(chunk satisfies Chunk);
  const { id, seed } = generation;
  await printJson({ id, model: pod.model.name, seed, prompt: await generation.prompt, usage: generation.usage(), times: generation.times() });
}
