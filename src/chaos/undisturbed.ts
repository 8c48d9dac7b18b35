/**
 * What calls are answered where nothing goes wrong: on one NPU alone, each call once, however many runs ask for it.
 * @module
 */

import { layersWithExperts } from '../flowserve/experts/expert-slots.ts';
import { MaskedExperts } from '../flowserve/experts/masked-experts.ts';
import type { Arithmetic } from '../flowserve/forward/arithmetic.ts';
import type { StepProgram } from '../flowserve/steps/step-program.ts';
import { openCheckpoint } from '../model/checkpoint.ts';
import { loadTokenizer } from '../model/tokenizer.ts';
import type { GenerateOptions, PodOptions } from '../options/options.ts';
import type { OpenModel } from '../platform/virtual-options.ts';
import { createVirtualPod, type VirtualPod } from '../pod/virtual-pod.ts';
import type { Pod } from '../pod.ts';
import type { Work } from '../protocol/messages.ts';
import type { TraceDisk } from '../trace/output-file.ts';
import type { ChaosCall, ChaosPlan } from './fault-plan.ts';
import { withMtpTwice } from './mtp-twice.ts';

/** By position: the experts that gates do without there, by layer, `2,6|2,10|…`; '': none. */
export type Masks = readonly string[];

export type Answer = { readonly tokens: readonly number[]; readonly text: string; readonly finish: string };

/** What decides tokens; all else of a pod does not. */
const NUMERICS = ['model', 'kernels', 'kv_cache_dtype', 'dispatch_dtype', 'combine_dtype', 'hash_foreseeable', 'average_routing'] as const;
/** By what is left out no token is another one. */
const alike = ({ deadline_ms: _, priority: __, data_parallel_rank: ___, speculative_decoding: ____, ...call }: ChaosCall): ChaosCall => ({ ...call, ms: 0 });

const numericsOf = (pod: ChaosPlan['pod']): Partial<PodOptions> =>
  Object.fromEntries(NUMERICS.flatMap((name) => (pod[name] === undefined ? [] : [[name, pod[name]]])));

/** Each position is a step of its own, and nothing is computed but for its own call. */
const STEP_BY_STEP = { max_batch_tokens: 1, prefix_caching: false, async_scheduling: false } as const;
/** `mask`: of its next call. */
type MaskingPod = { readonly pod: VirtualPod; readonly mask: (masks: Masks, prompt_tokens: number) => void };

const STEM = 1_000_003;
/** Below every shipped model's vocabulary; the first ids are special ones. */
const TOKEN_MIN = 3;
const TOKENS = 1_500;

const token = (key: number, position: number): number => TOKEN_MIN + ((key * 7_919 + position * 104_729) % TOKENS);

export const promptOf = ({ key, prompt_tokens, stem_tokens }: ChaosCall): number[] =>
  Array.from({ length: prompt_tokens }, (_, position) => token(position < Math.min(stem_tokens, prompt_tokens - 1) ? STEM : key + 1, position));

export const optionsOf = ({
  key,
  max_tokens,
  n,
  priority,
  data_parallel_rank,
  speculative_decoding,
  top_k,
  frequency_penalty,
}: ChaosCall): GenerateOptions => ({
  ...{ max_tokens, n, seed: key, temperature: key % 2 },
  ...(priority !== undefined && { priority }),
  ...(data_parallel_rank !== undefined && { data_parallel_rank }),
  ...(speculative_decoding !== undefined && { speculative_decoding }),
  ...(top_k !== undefined && { top_k }),
  ...(frequency_penalty !== undefined && { frequency_penalty }),
});

const openModel = async (folder: string): Promise<OpenModel> => ({ tokenizer: await loadTokenizer(folder), checkpoint: openCheckpoint(folder) });

/** What stands behind the call's own prompt it was told before: to samplers that is output. */
const goingOn = (work: Extract<Work, { readonly kind: 'step' }>, prompt_tokens: number): Work => ({
  ...work,
  plan: {
    ...work.plan,
    entries: work.plan.entries.map((entry) => {
      const { attach } = entry;
      if (attach === null) return entry;
      const [prompt, told] = [attach.prompt.slice(0, prompt_tokens), attach.prompt.slice(prompt_tokens)];
      return { ...entry, attach: { ...attach, prompt }, output: [...told, ...entry.output] };
    }),
  },
});

export class Undisturbed implements AsyncDisposable {
  /** By folder: opened once for all runs. */
  readonly #models = new Map<string, Promise<OpenModel>>();
  readonly #pods = new Map<string, Promise<Pod>>();
  readonly #masking = new Map<string, Promise<MaskingPod>>();
  readonly #answers = new Map<string, Promise<readonly Answer[]>>();

  /** A pod of a run, or one of its own. @throws as createPod does */
  createPod(options: PodOptions, mtp_layers = 1, disk?: TraceDisk): Promise<VirtualPod> {
    const open = async (folder: string): Promise<OpenModel> => {
      const model = this.#models.get(folder) ?? openModel(folder);
      this.#models.set(folder, model);
      if (mtp_layers === 1) return model;
      const { tokenizer, checkpoint } = await model;
      return { tokenizer, checkpoint: withMtpTwice(checkpoint) };
    };
    return createVirtualPod({ ...options, clock: 'virtual' }, open, disk);
  }

  /** By choice. */
  async answerOf({ pod }: Pick<ChaosPlan, 'pod'>, call: ChaosCall): Promise<readonly Answer[]> {
    const numerics = numericsOf(pod);
    const asked = alike(call);
    const key = JSON.stringify([numerics, asked]);
    let answer = this.#answers.get(key);
    if (answer === undefined) {
      answer = this.#ask(numerics, asked);
      this.#answers.set(key, answer);
    }
    return answer;
  }

  /** The same with experts masked; nothing of it is kept, since hardly a call meets the same. */
  async masked({ pod }: Pick<ChaosPlan, 'pod'>, call: ChaosCall, prompt: readonly number[], masks: Masks): Promise<readonly Answer[]> {
    const numerics = numericsOf(pod);
    const key = JSON.stringify(numerics);
    const eager = numerics.kernels === 'real' ? { enforce_eager: true } : {};
    const known = this.#masking.get(key) ?? this.#openMasking({ kernels: 'hash', ...numerics, ...STEP_BY_STEP, ...eager });
    this.#masking.set(key, known);
    const { pod: whole, mask } = await known;
    mask(masks, call.prompt_tokens);
    const { choices } = await whole.complete(prompt, optionsOf(alike(call)));
    return choices.map(({ token_ids, text, finish_reason }) => ({ tokens: token_ids, text, finish: finish_reason }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Who asked for one that could not be opened was told so.
    for (const pod of await Promise.allSettled(this.#pods.values())) if (pod.status === 'fulfilled') await pod.value.close();
    for (const open of await Promise.allSettled(this.#masking.values())) if (open.status === 'fulfilled') await open.value.pod.close();
    for (const model of await Promise.allSettled(this.#models.values())) if (model.status === 'fulfilled') model.value.checkpoint[Symbol.dispose]();
  }

  /** Gates of its one NPU do without the experts that they are told of, wherever those lie. */
  async #openMasking(options: PodOptions): Promise<MaskingPod> {
    const pod = await this.createPod(options);
    const { npus, config, space } = pod.control;
    const { forward } = npus.programOf(0) as StepProgram<Arithmetic>;
    const layers = layersWithExperts(config);
    const expertsOf = (mask: string): MaskedExperts => {
      const by_layer = mask.split('|').map((text, index) => [layers[index] as number, new Set(text === '' ? [] : text.split(',').map(Number))] as const);
      return new MaskedExperts(new Map(by_layer), space.wordsOf(forward.layout.base));
    };
    let masks: Masks = [];
    let prompt_tokens = 0;
    let now: MaskedExperts | null = null;
    Object.defineProperty(forward, 'masked', { get: () => now, set: () => {} });
    const launch = npus.launch.bind(npus);
    npus.launch = (launched) => {
      for (const { work } of launched) {
        const mask = work.kind === 'step' ? (masks[work.plan.entries[0]?.start ?? -1] ?? '') : '';
        now = mask === '' ? null : expertsOf(mask);
      }
      launch(launched.map(({ work, ...others }) => ({ ...others, work: work.kind === 'step' ? goingOn(work, prompt_tokens) : work })));
    };
    return {
      pod,
      mask: (next, tokens) => {
        masks = next;
        prompt_tokens = tokens;
      },
    };
  }

  async #ask(numerics: Partial<PodOptions>, call: ChaosCall): Promise<readonly Answer[]> {
    const key = JSON.stringify(numerics);
    const known = this.#pods.get(key) ?? this.createPod({ kernels: 'hash', ...numerics });
    this.#pods.set(key, known);
    const { choices } = await (await known).complete(promptOf(call), optionsOf(call));
    return choices.map(({ token_ids, text, finish_reason }) => ({ tokens: token_ids, text, finish: finish_reason }));
  }
}
