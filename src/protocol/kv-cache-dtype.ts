/** What KV is kept as, by vLLM's option. @module */

/** `auto`: as it is computed, in float32. `int8`: latents, keys and values in INT8 with a scale a position, MLA's rope keys in BF16. All of a pod keeps it alike. */
export const KV_CACHE_DTYPES = ['auto', 'int8'] as const;
export type KvCacheDtype = (typeof KV_CACHE_DTYPES)[number];
