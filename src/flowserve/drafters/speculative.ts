/**
 * How a pod drafts, as its options say it; and the drafter that an NPU has for that.
 * @module
 */
import type { Drafter } from './drafter.ts';
import { type LookupLimits, PromptLookup } from './prompt-lookup.ts';

/** `ngram`: prompt lookup. `mtp`: the checkpoint's own layers for multi-token prediction. */
export const DRAFT_METHODS = ['ngram', 'mtp'] as const;
type DraftMethod = (typeof DRAFT_METHODS)[number];

/** `tokens`: drafts of a sequence in one step, at most; `adaptive`: fewer, or none, where they do not pay. */
export type Speculative = LookupLimits & { readonly method: DraftMethod; readonly tokens: number; readonly adaptive: boolean };

/** In vLLM's words, as the options have it. */
export const configOf = ({ method, tokens, lookup_max, lookup_min, adaptive }: Speculative) => ({
  ...{ method, num_speculative_tokens: tokens, adaptive },
  ...(method === 'ngram' && { prompt_lookup_max: lookup_max, prompt_lookup_min: lookup_min }),
});

/** A drafter that computes has an NPU to do so. */
export type NewPredictor = (tokens: number) => Drafter;

/** Null: nothing is drafted. */
export function newDrafter(speculative: Speculative | undefined, newPredictor: NewPredictor): Drafter | null {
  if (speculative === undefined) return null;
  return speculative.method === 'mtp' ? newPredictor(speculative.tokens) : new PromptLookup(speculative);
}
