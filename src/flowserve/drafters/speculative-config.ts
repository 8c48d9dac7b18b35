/**
 * How a pod drafts tokens that one step verifies, in vLLM's words.
 * @module
 */
import * as z from 'zod';
import { DRAFT_METHODS, type Speculative } from './speculative.ts';

/** A step computes so many more rows of each request. */
const SPECULATIVE_TOKENS_MAX = 16;

/** `num_speculative_tokens`: drafts of a request in one step, at most. `prompt_lookup_max`, `prompt_lookup_min`: tokens that `ngram` must find again. */
export const speculativeConfigSchema = z
  .strictObject({
    method: z.enum(DRAFT_METHODS),
    num_speculative_tokens: z.int().min(1).max(SPECULATIVE_TOKENS_MAX),
    prompt_lookup_max: z.int().min(1).max(64).optional(),
    prompt_lookup_min: z.int().min(1).max(64).optional(),
    /** False: as many drafts as there are, whether they pay or not. */
    adaptive: z.boolean().default(true),
  })
  .refine(({ prompt_lookup_max: max, prompt_lookup_min: min = 1 }) => max === undefined || min <= max, {
    message: 'must not be more than prompt_lookup_max',
    path: ['prompt_lookup_min'],
  })
  .superRefine((config, { addIssue }) => {
    for (const limit of ['prompt_lookup_max', 'prompt_lookup_min'] as const)
      if (config.method !== 'ngram' && config[limit] !== undefined)
        addIssue({ code: 'custom', message: 'is of ngram alone: mtp looks nothing up', path: [limit] });
  });
export type SpeculativeConfig = z.output<typeof speculativeConfigSchema>;

/** Where one is missing it is the other, as in vLLM; both: 5. */
const LOOKUP = 5;

export function speculativeOf(config: SpeculativeConfig | undefined): Speculative | undefined {
  if (config === undefined) return undefined;
  const { method, num_speculative_tokens: tokens, prompt_lookup_max: max, prompt_lookup_min: min, adaptive } = config;
  return { method, tokens, lookup_max: max ?? min ?? LOOKUP, lookup_min: min ?? max ?? LOOKUP, adaptive };
}
