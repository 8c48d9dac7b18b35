/** How much a request read and wrote. @module */

/** `cached_tokens`: of the prompt's, those whose KV was there already. `reasoning_tokens`: of the completion's, where reasoning is parsed. */
export const usageOf = (prompt_tokens: number, completion_tokens: number, cached_tokens: number, reasoning_tokens?: number) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
  prompt_tokens_details: { cached_tokens },
  ...(reasoning_tokens !== undefined && { completion_tokens_details: { reasoning_tokens } }),
});
