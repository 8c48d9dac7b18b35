/** Campaigns: a seed is a plan and a run, the same on every thread; what breaks is shrunk to little. */
import { describe, expect, it } from 'vitest';
import { phaseOf } from '../../src/chaos/fault-kinds.ts';
import { cellsOf, chaos, SURVIVED, TOPOLOGIES } from '../../src/chaos/index.ts';
import { junit } from '../../src/chaos/junit.ts';
import { isChangeable, ROOT } from '../cli/source-copy.ts';
import { PLANTED } from './planted/planted-bugs.ts';

describe('a campaign', () => {
  it('should hold over all topologies', async () => {
    const { runs, failures, verdicts, coverage } = await chaos.campaign({ seeds: { first: 1, last: 12 }, jobs: 1 });
    expect(failures).toEqual([]);
    expect([runs, verdicts]).toEqual([12, { held: 12 }]);
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

  it('should draw every kind of fault at every phase that is one of its own', () => {
    const plans = Array.from({ length: TOPOLOGIES.length * SURVIVED.length }, (_, seed) => chaos.planOf(seed));
    const first = plans.map(({ faults: [fault] }) => `${fault?.kind} ${fault === undefined ? '' : phaseOf(fault)}`);
    expect(new Set(first)).toEqual(new Set(cellsOf(SURVIVED).map(({ kind, phase }) => `${kind} ${phase}`)));
    for (const [index, plan] of plans.entries()) expect(plan).toEqual(chaos.planOf(index));
    expect(() => chaos.planOf(1, { faults: ['fire'] })).toThrow(/there is no fire/);
  });
});

describe('a plan that breaks', () => {
  it('should shrink to the fault that breaks it', async () => {
    const broken = chaos.planOf(2, { topologies: ['prefill-decode'] });
    const planted = { kind: 'message-dropped', type: 'STEP_DONE', at: { ms: 0 }, for_ms: 500 } as const;
    const { plan, report } = await chaos.shrink({ ...broken, faults: [...broken.faults, planted] });
    expect(report.verdict).toBe('lost progress');
    expect(plan.faults).toMatchObject([planted]);
    expect(plan.calls.length).toBe(1);
    expect(plan.pod['topology']).toBe('colocated:dp=1');
  });
});

it('bugs to be planted are of what the sources say', () => {
  expect(PLANTED.filter((bug) => !isChangeable(ROOT, bug)).map(({ file, from }) => `${file}: ${from}`)).toEqual([]);
});
