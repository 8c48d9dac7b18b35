/** How much a request read and wrote. @module */
import type { DraftUsage } from '../results.ts';

/**
 * `cached_tokens`: of the prompt's, those whose KV was there already. `reasoning_tokens`: of the completion's, where reasoning is parsed. `drafted`: where tokens
 * were.
 */
export const usageOf = (prompt_tokens: number, completion_tokens: number, cached_tokens: number, reasoning_tokens?: number, drafted?: DraftUsage) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
  prompt_tokens_details: { cached_tokens },
  ...((reasoning_tokens !== undefined || drafted !== undefined) && {
    completion_tokens_details: { ...(reasoning_tokens !== undefined && { reasoning_tokens }), ...drafted },
  }),
});

/** Of several generations together. */
export function sumOfDrafts(all: readonly (DraftUsage | undefined)[]): { readonly drafted?: DraftUsage } {
  const some = all.filter((drafted) => drafted !== undefined);
  const sum = (name: keyof DraftUsage): number => some.reduce((total, drafted) => total + drafted[name], 0);
  if (some.length === 0) return {};
  return { drafted: { accepted_prediction_tokens: sum('accepted_prediction_tokens'), rejected_prediction_tokens: sum('rejected_prediction_tokens') } };
}
