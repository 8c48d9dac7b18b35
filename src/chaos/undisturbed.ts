/**
 * What calls are answered where nothing goes wrong: on one NPU alone, each call once, however many runs ask for it.
 * @module
 */
import { createPod, type GenerateOptions, type Pod } from '../index.ts';
import type { PodOptions } from '../options.ts';
import type { ChaosCall, ChaosPlan } from './fault-plan.ts';

export type Answer = { readonly tokens: readonly number[]; readonly finish: string };

/** What decides tokens; all else of a pod does not. */
const NUMERICS = ['model', 'kernels', 'kv_cache_dtype'] as const;
const STEM = 1_000_003;
/** Below every shipped model's vocabulary; the first ids are special ones. */
const TOKEN_MIN = 3;
const TOKENS = 1_500;

const token = (key: number, position: number): number => TOKEN_MIN + ((key * 7_919 + position * 104_729) % TOKENS);

export const promptOf = ({ key, prompt_tokens, stem_tokens }: ChaosCall): number[] =>
  Array.from({ length: prompt_tokens }, (_, position) => token(position < Math.min(stem_tokens, prompt_tokens - 1) ? STEM : key + 1, position));

export const optionsOf = ({ key, max_tokens, n }: ChaosCall): GenerateOptions => ({ max_tokens, n, seed: key, temperature: key % 2 });

export class Undisturbed implements AsyncDisposable {
  readonly #pods = new Map<string, Promise<Pod>>();
  readonly #answers = new Map<string, Promise<readonly Answer[]>>();

  /** By choice. */
  async answerOf({ pod }: Pick<ChaosPlan, 'pod'>, call: ChaosCall): Promise<readonly Answer[]> {
    const numerics = Object.fromEntries(NUMERICS.flatMap((name) => (pod[name] === undefined ? [] : [[name, pod[name]]])));
    const { deadline_ms: _, ...asked } = call;
    const key = JSON.stringify([numerics, asked]);
    let answer = this.#answers.get(key);
    if (answer === undefined) {
      answer = this.#ask(numerics, call);
      this.#answers.set(key, answer);
    }
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pod of this.#pods.values()) await (await pod).close();
  }

  async #ask(numerics: Partial<PodOptions>, call: ChaosCall): Promise<readonly Answer[]> {
    const key = JSON.stringify(numerics);
    const known = this.#pods.get(key) ?? createPod({ clock: 'virtual', kernels: 'hash', ...numerics });
    this.#pods.set(key, known);
    const { choices } = await (await known).complete(promptOf(call), optionsOf(call));
    return choices.map(({ token_ids, finish_reason }) => ({ tokens: token_ids, finish: finish_reason }));
  }
}
