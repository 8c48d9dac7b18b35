/** Calls one after another and at once, for a trace of some blocks. @module */
import type { Pod } from '../../src/index.ts';

export async function virtualCalls(pod: Pod): Promise<readonly (readonly number[])[]> {
  const call = async (last: number): Promise<readonly number[]> =>
    (await pod.complete([1, 86, 1461, last], { max_tokens: 40, ignore_eos: true, seed: last })).choices[0]?.token_ids ?? [];
  const first = await Promise.all(Array.from({ length: 6 }, (_, index) => call(613 + index)));
  return [...first, await call(700)];
}
