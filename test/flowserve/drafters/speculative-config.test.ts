/** How drafts are asked for: what is missing is filled in as in vLLM, what does not go together is refused. */
import { describe, expect, it } from 'vitest';
import { speculativeConfigSchema, speculativeOf } from '../../../src/flowserve/drafters/speculative-config.ts';

const parsed = (config: object) => speculativeOf(speculativeConfigSchema.parse({ num_speculative_tokens: 3, ...config }));

describe('speculative_config', () => {
  it('should look up as many tokens as one of the limits says where the other is missing, and five where both are', () => {
    const limits = ({ lookup_min, lookup_max }: { lookup_min: number; lookup_max: number }): number[] => [lookup_min, lookup_max];
    const of = (config: object): number[] => limits(parsed({ method: 'ngram', ...config }) as { lookup_min: number; lookup_max: number });
    expect([of({}), of({ prompt_lookup_max: 1 }), of({ prompt_lookup_min: 7 }), of({ prompt_lookup_min: 2, prompt_lookup_max: 2 })]).toEqual([
      [5, 5],
      [1, 1],
      [7, 7],
      [2, 2],
    ]);
    expect(() => of({ prompt_lookup_min: 3, prompt_lookup_max: 2 })).toThrow(/must not be more than prompt_lookup_max/);
  });

  it('should be of ngram alone where it is about looking up', () => {
    expect(parsed({ method: 'mtp' })).toMatchObject({ method: 'mtp', tokens: 3, adaptive: true });
    for (const limit of ['prompt_lookup_max', 'prompt_lookup_min'])
      expect(() => parsed({ method: 'mtp', [limit]: 2 })).toThrow(
        expect.objectContaining({ issues: [expect.objectContaining({ path: [limit], message: expect.stringContaining('is of ngram alone') })] }),
      );
    expect(speculativeOf(undefined)).toBeUndefined();
  });
});
