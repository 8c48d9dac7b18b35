/** Domains at the experts in turn give the tokens of one NPU: real schedulers, step programs and exchanges, whatever the split. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { parseTopology } from '../../../src/protocol/topology.ts';
import { runs } from '../../property-runs.ts';
import { numbers } from '../../xccl/rig.ts';
import { type Call, generate, makeHashPod } from '../hash-rig.ts';

const prompt = (length: number, seed: number): number[] => {
  const next = numbers(seed);
  return Array.from({ length }, () => 3 + Math.floor(next() * 40_000));
};

it('should generate the tokens of one NPU, whatever the numbers of domains, attention and expert NPUs, and the rows of steps', () => {
  fc.assert(
    fc.property(
      fc.record({
        domains: fc.integer({ min: 1, max: 3 }),
        attention: fc.integer({ min: 1, max: 4 }),
        experts: fc.integer({ min: 1, max: 6 }),
        shared: fc.constantFrom('', ',shared=1', ',shared=attention'),
        max_batch_tokens: fc.integer({ min: 1, max: 24 }),
        lengths: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 }),
        seed: fc.nat(),
      }),
      ({ domains, attention, experts, shared, max_batch_tokens, lengths, seed }) => {
        const topology = parseTopology(`moe-attention:domains=${domains}x${attention},experts=${experts}${shared}`);
        const pod = makeHashPod(0, { topology, schedule: 'domains', max_batch_tokens });
        const calls = lengths.map((length, index): Call => ({ npu: index % (domains * attention), prompt: prompt(length, seed + index), max_tokens: 5 }));
        const { tokens, errors } = generate(pod, calls);
        expect(errors.filter((error) => error !== null)).toEqual([]);
        expect(tokens).toEqual(
          generate(
            makeHashPod(1),
            calls.map((call) => ({ ...call, npu: 0 })),
          ).tokens,
        );
      },
    ),
    { numRuns: runs(40) },
  );
});
