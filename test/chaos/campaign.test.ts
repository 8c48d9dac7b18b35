/** Campaigns: a seed is a plan and a run, the same on every thread. */
import { describe, expect, it } from 'vitest';
import { chaos } from '../../src/chaos/index.ts';
import { junit } from '../../src/chaos/junit.ts';
import { runs } from '../property-runs.ts';

describe('a campaign', () => {
  it('should hold over all topologies', async () => {
    const last = runs(12);
    const { runs: all, failures, verdicts, coverage } = await chaos.campaign({ seeds: { first: 1, last }, jobs: 1 });
    expect(failures).toEqual([]);
    expect([all, verdicts]).toEqual([last, { held: last }]);
    expect(coverage.some(({ effective }) => effective > 0)).toBe(true);
  });

  it('should be the same on threads of its own', async () => {
    const scope = { seeds: { first: 3, last: 8 }, faults: ['kv-bit-flip'], topologies: ['colocated'] };
    expect(await chaos.campaign({ ...scope, jobs: 2 })).toEqual(await chaos.campaign({ ...scope, jobs: 1 }));
  });

  it('should tell of failures what repeats them', async () => {
    const held = await chaos.campaign({ seeds: { first: 3, last: 5 }, faults: ['npu-slow'], topologies: ['colocated'], jobs: 1 });
    const failure = {
      seed: 4,
      calls: 2,
      verdict: 'wrong result' as const,
      violations: [{ verdict: 'wrong result' as const, what: 'token 7 < 8' }],
      faults: [],
      events: 9,
      topology: 'colocated:dp=1',
      hasRealKernels: false,
      recovery: 'successors' as const,
    };
    const xml = junit({ ...held, failures: [failure] }, (seed) => `run ${seed}`);
    expect(xml.match(/<testcase /g)?.length).toBe(3);
    expect(xml.match(/<failure type="wrong result" message="token 7 &lt; 8">token 7 &lt; 8\nrun 4<\/failure>/g)?.length).toBe(1);
  });

  it.each([
    [{ seeds: { first: 5, last: 4 }, jobs: 1 }, 'seeds'],
    [{ seeds: { first: 1, last: 1e12 }, jobs: 1 }, 'seeds'],
    [{ seeds: { first: 1, last: 4 }, jobs: 0 }, 'jobs'],
  ])('should be of seeds: %o is refused', async (options, param) => {
    await expect(chaos.campaign(options)).rejects.toMatchObject({ code: 'invalid_request', param });
  });
});
