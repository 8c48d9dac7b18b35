/** How much a request read and wrote. @module */

/** `cached_tokens`: of the prompt's, those whose KV was there already. */
export const usageOf = (prompt_tokens: number, completion_tokens: number, cached_tokens: number) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
  prompt_tokens_details: { cached_tokens },
});
