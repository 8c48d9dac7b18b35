/** Topologies: their text, what is refused, and how everything in them is numbered. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  attentionPlaceOf,
  checkTopology,
  colocated,
  deploy,
  domainsOf,
  EXECUTOR_ROLES,
  type Executor,
  type ExecutorShape,
  expertGroupOf,
  formatTopology,
  npuOfExpert,
  parseTopology,
  projectionGroupOf,
  sharedExpertNpuFor,
  sharedExpertNpusOf,
  type Topology,
} from '../../src/protocol/topology.ts';
import { dealtOutByKind } from '../../src/runtime/directory.ts';

const role = fc.constantFrom(...EXECUTOR_ROLES);
const size = fc.integer({ min: 1, max: 9 });
const few = fc.integer({ min: 1, max: 3 });
const shape: fc.Arbitrary<ExecutorShape> = fc.oneof(
  fc.record({ role, dp: size, tp: fc.integer({ min: 1, max: 4 }) }),
  fc
    .record({ role, dp: fc.integer({ min: 1, max: 3 }), oproj: fc.integer({ min: 2, max: 4 }) })
    .map(({ role, dp, oproj }) => ({ role, dp: dp * oproj, tp: 1, oproj })),
  fc
    .record({ role, domains: few, attention: few, experts: few, shared: fc.constantFrom(undefined, 'attention' as const, 1) })
    .map(({ role, domains, attention, experts, shared }) => ({
      ...{ role, dp: domains * attention, tp: 1 },
      split: { domains, experts, ...(shared !== undefined && { shared }) },
    })),
);
const serves = (topology: Topology): boolean => {
  const has = (role: string): boolean => topology.some((executor) => executor.role === role);
  return has('prefill') === has('decode');
};
const topologies = fc.array(shape, { minLength: 1, maxLength: 8 }).filter(serves);

describe('the text of a topology', () => {
  it('should read as it is written, whatever the topology', () => {
    fc.assert(
      fc.property(topologies, (topology) => {
        expect(parseTopology(formatTopology(topology))).toEqual(topology);
      }),
    );
  });

  it.each<[string, Topology]>([
    ['colocated', colocated(1)],
    ['colocated:dp=2', colocated(2)],
    ['colocated:dp=2,tp=3', [{ role: 'colocated', dp: 2, tp: 3 }]],
    ['colocated:oproj=2,dp=4', [{ role: 'colocated', dp: 4, tp: 1, oproj: 2 }]],
    ['colocated:dp=4,oproj=1', [{ role: 'colocated', dp: 4, tp: 1 }]],
    [
      'pd:prefill=1xdp1tp2,decode=2xdp4oproj2',
      [
        { role: 'prefill', dp: 1, tp: 2 },
        { role: 'decode', dp: 4, tp: 1, oproj: 2 },
        { role: 'decode', dp: 4, tp: 1, oproj: 2 },
      ],
    ],
    ['moe-attention:domains=3x4,experts=8', [{ role: 'colocated', dp: 12, tp: 1, split: { domains: 3, experts: 8 } }]],
    ['moe-attention:shared=2,experts=8,domains=1x4', [{ role: 'colocated', dp: 4, tp: 1, split: { domains: 1, experts: 8, shared: 2 } }]],
    [
      'pd:prefill=1xdp2,decode=2xdomains3x4experts8sharedattention',
      [
        { role: 'prefill', dp: 2, tp: 1 },
        { role: 'decode', dp: 12, tp: 1, split: { domains: 3, experts: 8, shared: 'attention' } },
        { role: 'decode', dp: 12, tp: 1, split: { domains: 3, experts: 8, shared: 'attention' } },
      ],
    ],
    [
      'pd',
      [
        { role: 'prefill', dp: 1, tp: 1 },
        { role: 'decode', dp: 1, tp: 1 },
      ],
    ],
    [
      'pd:prefill=2xdp1tp2,decode=1xdp4',
      [
        { role: 'prefill', dp: 1, tp: 2 },
        { role: 'prefill', dp: 1, tp: 2 },
        { role: 'decode', dp: 4, tp: 1 },
      ],
    ],
    [
      'mixed: colocated=dp2, prefill=1x, decode=1',
      [
        { role: 'colocated', dp: 2, tp: 1 },
        { role: 'prefill', dp: 1, tp: 1 },
        { role: 'decode', dp: 1, tp: 1 },
      ],
    ],
  ])('%s', (text, topology) => {
    expect(parseTopology(text)).toEqual(topology);
  });

  it.each([
    ['ring', /'ring' is no kind of topology; a topology is written like 'colocated:dp=2'/],
    ['colocated:2', /'2' is neither dp=N nor tp=N nor oproj=N/],
    ['colocated:dp=0', /'dp=0' has 0 of something/],
    ['pd:prefill=1xdp1', /what its prefill executors compute goes nowhere/],
    ['mixed:colocated=1xdp1,decode=1xdp1', /its decode executors get nothing to decode/],
    ['pd:colocated=1xdp1', /begins with 'mixed:'/],
    ['pd:prefill=65xdp1,decode=1xdp1', /65 task executors are more than the 64/],
    ['mixed:', /it has no task executor/],
    ['colocated:dp=2,tp=2,oproj=2', /a colocated executor has tp 2 and oproj 2: ranks of a DP group split their output projection already/],
    ['pd:prefill=1xdp3oproj2,decode=1', /a prefill executor has dp 3, which oproj 2 does not divide: each 2 NPUs have one output projection/],
    ['colocated:dp=2,dp=3', /it says dp twice/],
    ['pd:prefill=,decode=1', /'prefill=' is not like/],
    ['pd:prefill=2dp3,decode=1', /'prefill=2dp3' is not like/],
    ['moe-attention:domains=3x4', /it does not say experts=N/],
    ['moe-attention:experts=4', /it does not say domains=NxN/],
    ['moe-attention:domains=3,experts=4', /'domains=3' is neither domains=NxN nor experts=N/],
    ['moe-attention:domains=1x2,experts=4,shared=5', /has the shared expert on 5 of 4 expert NPUs/],
    ['pd:prefill=1,decode=1xdomains2x2', /'decode=1xdomains2x2' is not like prefill=2xdp1tp2, nor like decode=1xdomains3x4experts8/],
    ['pd:prefil=1xdp1', /'prefil=1xdp1' is not like prefill=2xdp1tp2/],
  ])('should refuse %s and say why', (text, why) => {
    expect(() => parseTopology(text)).toThrow(why);
  });
});

describe('a deployment', () => {
  it('should number each NPU and group once, and give each expert of an executor one NPU of it', () => {
    fc.assert(
      fc.property(topologies, fc.integer({ min: 1, max: 64 }), (topology, experts) => {
        checkTopology(topology);
        const deployment = deploy(topology);
        const { executors, groups, npus } = deployment;
        expect(executors.map(({ role, dp, tp, oproj, split }) => ({ role, dp, tp, oproj, split }))).toEqual(topology);
        expect(groups.map(({ id }) => id)).toEqual([...groups.keys()]);
        expect(npus.map(({ id }) => id)).toEqual([...npus.keys()]);
        const attention = npus.filter(({ kind }) => kind === 'attention');
        expect(groups.flatMap((group) => group.npus)).toEqual(attention.map(({ id }) => id));
        for (const { id } of attention) {
          const { executor, group, rank } = attentionPlaceOf(deployment, id);
          expect(groups[group]?.npus[rank]).toBe(id);
          expect(executors[executor]?.groups).toContain(group);
        }
        for (const { id, executor } of npus) {
          const { first, npus: count } = projectionGroupOf(deployment, id);
          expect([count, id - first < count]).toEqual([executors[executor]?.oproj ?? 1, true]);
          const last = first + count - 1;
          expect([projectionGroupOf(deployment, last), npus[first]?.executor, npus[last]?.executor]).toEqual([{ first, npus: count }, executor, executor]);
        }
        for (const { id, experts: own } of executors)
          for (let expert = 0; expert < experts; expert++) {
            const home = npuOfExpert(expert, own);
            expect(npus[home]?.executor).toBe(id);
            expect(expertGroupOf(deployment, home)).toEqual(own);
          }
      }),
    );
  });

  it('should give each attention NPU of a split executor one of as many holders of the shared expert as were asked for, evenly', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), (attention, experts, shared) => {
        const deployment = deploy([
          { role: 'prefill', dp: 2, tp: 1 },
          { role: 'decode', dp: attention, tp: 1, split: { domains: 1, experts, shared: Math.min(shared, experts) } },
        ]);
        const [, executor] = deployment.executors as [Executor, Executor];
        const holders = sharedExpertNpusOf(executor);
        expect(new Set(holders).size).toBe(Math.min(shared, experts));
        for (const npu of holders) expect(deployment.npus[npu]?.kind).toBe('experts');
        const asked = executor.groups.map((_, index) => sharedExpertNpuFor(deployment, executor.attention.first + index));
        const counts = holders.map((holder) => asked.filter((npu) => npu === holder).length);
        expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
        expect(sharedExpertNpuFor(deployment, 0)).toBeNull();
      }),
    );
  });

  it('should number the domains of a split executor through its groups', () => {
    const [executor] = deploy(parseTopology('moe-attention:domains=3x2,experts=4')).executors as [Executor];
    expect(domainsOf(executor)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ]);
    expect(executor.experts).toEqual({ first: 6, npus: 4 });
  });

  it('should give every worker NPUs of both kinds, as far as they go', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 18 }), (dp, experts, wanted) => {
        const { npus } = deploy([{ role: 'colocated', dp, tp: 1, split: { domains: 1, experts } }]);
        const workers = Math.min(wanted, npus.length);
        const worker = dealtOutByKind(npus, workers);
        expect(new Set(worker).size).toBe(workers);
        for (const kind of ['attention', 'experts'] as const) {
          const own = npus.filter((npu) => npu.kind === kind);
          if (own.length >= workers) expect(new Set(own.map(({ id }) => worker[id])).size).toBe(workers);
        }
      }),
    );
  });
});
