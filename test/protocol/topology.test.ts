/** Topologies: their text, what is refused, and how everything in them is numbered. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checkTopology,
  colocated,
  deploy,
  EXECUTOR_ROLES,
  type ExecutorShape,
  expertGroupOf,
  formatTopology,
  npuOfExpert,
  parseTopology,
  projectionGroupOf,
  type Topology,
} from '../../src/protocol/topology.ts';

const role = fc.constantFrom(...EXECUTOR_ROLES);
const size = fc.integer({ min: 1, max: 9 });
const shape: fc.Arbitrary<ExecutorShape> = fc.oneof(
  fc.record({ role, dp: size, tp: fc.integer({ min: 1, max: 4 }) }),
  fc
    .record({ role, dp: fc.integer({ min: 1, max: 3 }), oproj: fc.integer({ min: 2, max: 4 }) })
    .map(({ role, dp, oproj }) => ({ role, dp: dp * oproj, tp: 1, oproj })),
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
        expect(executors.map(({ role, dp, tp, oproj }) => ({ role, dp, tp, oproj }))).toEqual(topology);
        expect(groups.map(({ id }) => id)).toEqual([...groups.keys()]);
        expect(groups.flatMap((group) => group.npus)).toEqual([...npus.keys()]);
        for (const { id, executor, group, rank } of npus) {
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
});
