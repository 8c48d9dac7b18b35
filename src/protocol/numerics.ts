/**
 * What of a pod's options is the model's numerics: tokens differ by it, and are the same in every topology. All of a pod computes alike, and so do pods that exchange
 * KV; a trace names what is not as the model has it.
 * @module
 */
import { MinipodError } from './errors.ts';

/** `auto`: as it is computed, in float32. `int8`: latents, keys and values in INT8 with a scale a position, MLA's rope keys in BF16. vLLM's option. */
export const KV_CACHE_DTYPES = ['auto', 'int8'] as const;
export type KvCacheDtype = (typeof KV_CACHE_DTYPES)[number];

/**
 * In what rows go to experts (dispatch, A2E) and come back (combine, E2A), xDeepServe §3.2 and §4.7. `auto`: as they are computed, in float32. `int8`: INT8 with a scale
 * a token; rows that do not leave their NPU too.
 */
export const WIRE_DTYPES = ['auto', 'int8'] as const;
export type WireDtype = (typeof WIRE_DTYPES)[number];

/** Missing: `auto`. */
export type Numerics = {
  readonly kv_cache_dtype?: KvCacheDtype | undefined;
  readonly dispatch_dtype?: WireDtype | undefined;
  readonly combine_dtype?: WireDtype | undefined;
};

/** Those that are not as the model has them, as options of whoever has the same ones. */
export function numericsOf({ kv_cache_dtype = 'auto', dispatch_dtype = 'auto', combine_dtype = 'auto' }: Numerics): Numerics {
  return {
    ...(kv_cache_dtype !== 'auto' && { kv_cache_dtype }),
    ...(dispatch_dtype !== 'auto' && { dispatch_dtype }),
    ...(combine_dtype !== 'auto' && { combine_dtype }),
  };
}

/** The same as text, of which what is cached and who is linked is told apart; '' where all is as the model has it. */
export function numericsKey(options: Numerics & { readonly average_routing?: boolean | undefined }): string {
  const named = [...Object.entries(numericsOf(options)), ...(options.average_routing === true ? [['average_routing', 'true']] : [])];
  return named.map(([name, value]) => `${name} ${value}`).join(', ');
}

/** Who takes part in an exchange of KV, and by which numerics it has it. */
export type ByNumerics = { readonly executor: number; readonly numerics: string };

/** Two whose numerics are not the same, and are told so before any KV goes from the one to the other. */
export const numericsDiffer = (source: ByNumerics, target: ByNumerics): MinipodError =>
  new MinipodError(
    'invalid_request',
    `executor ${source.executor} has KV by ${source.numerics || "the model's own numerics"}, executor ${target.executor} by ${target.numerics || "the model's own numerics"}: the same at both would be right`,
  );
