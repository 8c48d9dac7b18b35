/** How much a request read and wrote. @module */

/** No prompt token comes from a cache: the pod has no prefix cache yet. */
export const usageOf = (prompt_tokens: number, completion_tokens: number) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
  prompt_tokens_details: { cached_tokens: 0 },
});
