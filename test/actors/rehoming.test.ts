/** An expert map whose NPUs are lost, with and without successors: each an entry of its log that weighs more than all others. */
import { describe, expect, it } from 'vitest';
import { replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import type { Address } from '../../src/protocol/address.ts';
import { type ExpertMapMessage, rebalance } from '../../src/protocol/expert-maps.ts';
import { mapDone, mapWanted, placeExperts } from '../../src/protocol/map-log.ts';

import { Group, NPUS, once, SHAPE, STATES, SUCCESSOR_MS } from './expert-map-rig.ts';

const WRITER: Address = 'scaling/0';
const ask = (group: Group, ...messages: readonly ExpertMapMessage[]): void => {
  for (const message of messages) {
    group.tell(message);
    group.run(group.now_ms);
  }
};
const logOf = (group: Group): string[] => group.balancer.log.entries.map(({ change, outcome, cause }) => `${change} ${outcome} ${cause}`);
const reasonsOf = (group: Group): string[] => group.balancer.log.entries.map(({ reason }) => reason);
/** Those who live hold what the map says, and sort by it. */
function expectWhole(group: Group): void {
  const { map, lost } = group.balancer;
  for (let entry = 0; entry < SHAPE.layers * SHAPE.experts; entry++) {
    const layer = Math.floor(entry / SHAPE.experts);
    const there = [...replicasOf(map, layer, entry % SHAPE.experts)].filter((slot) => !lost.has(Math.floor(slot / 3)));
    expect(there.length, `expert ${entry % SHAPE.experts} of layer ${layer}`).toBeGreaterThan(0);
    for (const slot of there) expect(group.holds[layer * SHAPE.slots + slot]).toBe(entry % SHAPE.experts);
  }
  expect(group.state).toBe('stable');
  expect(group.unexpected).toEqual([]);
}

describe('an NPU with experts that is lost', () => {
  it('should be waited for, then serve again, and the log say so', () => {
    const group = new Group();
    group.lose(3);
    expect(logOf(group)).toEqual(['rehome unchanged npu_lost']);
    expect(reasonsOf(group)).toEqual(['npu/3 was lost; 2 experts are nowhere else and wait for a successor']);
    group.returns(3);
    expect(logOf(group)).toEqual(['rehome unchanged npu_lost', 'rehome unchanged npu_back']);
    group.run(2 * SUCCESSOR_MS);
    expect(logOf(group)).toHaveLength(2);
    expectWhole(group);
  });

  it('should have what was its own alone loaded from the checkpoint, where no successor comes; and have it again when one does', () => {
    const group = new Group();
    group.lose(3);
    group.run(2 * SUCCESSOR_MS);
    expect(logOf(group)).toEqual(['rehome unchanged npu_lost', 'rehome installed npu_gone']);
    expect(reasonsOf(group)[1]).toBe('npu/3 is lost for good; 2 experts that were nowhere else came from the checkpoint; all experts are served');
    expect(group.read.map(({ layer, expert }) => [layer, expert])).toHaveLength(2);
    expect(group.balancer.holders).toEqual([0, 1, 2]);
    expectWhole(group);
    // Rebalances go on without it.
    ask(group, rebalance(1, true));
    expect(group.outcomes.at(-1)).toMatchObject({ cause: expect.stringMatching(/better|forced/) });
    expect(group.balancer.holders).toEqual([0, 1, 2]);
    group.returns(3);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_back');
    expect(group.balancer.holders).toEqual(NPUS);
    // From who has it.
    expect(group.read).toHaveLength(2);
    expectWhole(group);
    for (const map of group.maps) expect(map.expertOfSlot).toEqual(group.balancer.map.expertOfSlot);
  });

  it.each(STATES)('should end a rebalance at its last good map: in %s', (state) => {
    const group = new Group();
    group.fault = once(state, 'silence');
    ask(group, rebalance(1, true));
    expect(group.state).toBe(state);
    group.lose(3);
    expect(logOf(group)[0]).toBe('rebalance rolled_back npu_lost');
    expect(logOf(group)[1]).toMatch(/^rehome (installed|unchanged) npu_lost$/);
    group.run(2 * SUCCESSOR_MS);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_gone');
    expectWhole(group);
  });

  it.each(STATES.filter((state) => state !== 'collecting'))('should take the map from a scale, which is not heard from then on: in %s', (state) => {
    const group = new Group();
    group.fault = once(state, 'silence');
    ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 1, 2]));
    expect(group.state).toBe(state);
    group.lose(2);
    expect(group.grants.at(-1)).toMatchObject({
      type: 'MAP_TAKEN',
      entry: 1,
      error: { code: 'worker_failed', message: expect.stringContaining('npu/2 was lost') },
    });
    expect(logOf(group).slice(0, 2)).toEqual(['scale aborted another_entry', expect.stringMatching(/^rehome (installed|unchanged) npu_lost$/)]);
    ask(group, placeExperts(1, [0]));
    group.run(2 * SUCCESSOR_MS);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_gone');
    expectWhole(group);
  });

  it('should refuse rebalances and scales meanwhile, with the reason', () => {
    const group = new Group();
    let isHeard = false;
    group.fault = (_, { kind }) => (kind === 'stage' && !isHeard ? 'silence' : 'answer');
    group.lose(3);
    group.run(SUCCESSOR_MS);
    expect(group.state).toBe('prefetching');
    ask(group, rebalance(1, true), mapWanted(WRITER, 7, 'scale'));
    expect(group.outcomes.at(-1)).toMatchObject({ outcome: 'refused', reason: 'a rehome is under way, and prefetching' });
    expect(group.grants.at(-1)).toMatchObject({ type: 'MAP_REFUSED', error: { message: expect.stringContaining('a rehome is under way') } });
    isHeard = true;
    group.run(100_000);
    expect(logOf(group).slice(1)).toContain('rehome rolled_back deadline');
    // It is tried again.
    expect(logOf(group)).toContain('rehome installed npu_gone');
    expectWhole(group);
  });

  it.each(STATES.filter((state) => state !== 'collecting'))('should be rehomed with another that is lost in the midst of it: in %s', (state) => {
    const group = new Group();
    // The first map of a loss changes nothing here.
    let asked = 0;
    group.fault = (npu, { kind }) => {
      const isThere = state === 'prefetching' ? kind === 'stage' : state === 'loading' ? kind === 'load' : kind === 'install';
      if (!isThere || npu !== 2 || group.now_ms < SUCCESSOR_MS || asked > 1) return 'answer';
      return ++asked === (state === 'enabling' ? 2 : 1) ? 'death' : 'answer';
    };
    group.lose(3);
    group.run(SUCCESSOR_MS);
    group.run(3 * SUCCESSOR_MS);
    expect([...group.balancer.lost].sort()).toEqual([2, 3]);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_gone');
    expect(group.balancer.holders).toEqual([0, 1]);
    expectWhole(group);
    for (const npu of [2, 3]) group.returns(npu);
    expect(group.balancer.holders).toEqual(NPUS);
    expectWhole(group);
  });

  it('should be tried again where the checkpoint cannot be read, and name what is lost until then', () => {
    const group = new Group();
    let isBroken = true;
    group.fault = (_, { kind }) => (kind === 'stage' && isBroken ? 'failure' : 'answer');
    group.lose(3);
    group.run(SUCCESSOR_MS);
    expect(logOf(group).at(-1)).toBe('rehome rolled_back corrupt');
    expect(group.balancer.lostExperts).toHaveLength(2);
    group.run(3 * SUCCESSOR_MS);
    expect(group.balancer.lostExperts).toHaveLength(2);
    isBroken = false;
    group.run(4 * SUCCESSOR_MS);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_gone');
    expect(group.balancer.lostExperts).toEqual([]);
    expectWhole(group);
  });

  it.each([
    ['was refused', [...NPUS]],
    ['was done', [0, 1, 2]],
  ])('should have the shared expert again when it is back, though a scale %s meanwhile', (_, holders) => {
    const group = new Group('global', 1, [3]);
    group.lose(3);
    group.run(2 * SUCCESSOR_MS);
    expect(group.nowhere).toEqual([expect.stringContaining('the shared expert')]);
    ask(group, mapWanted(WRITER, 7, 'scale'));
    const { entry } = group.grants.at(-1) as { entry: number };
    ask(group, placeExperts(entry, holders));
    expect(group.grants.at(-1)).toMatchObject({ type: 'EXPERTS_PLACED', error: holders.includes(3) ? { code: 'worker_lost' } : null });
    ask(group, mapDone(entry, null));
    group.returns(3);
    expect(group.nowhere.at(-1)).toBe(null);
    expect(group.balancer.holders).toEqual(holders);
    expectWhole(group);
  });

  it('should leave experts lost for which there is no room, until it is back', () => {
    const group = new Group();
    // Twelve slots on four NPUs: one NPU has three for six experts.
    for (const npu of [1, 2, 3]) group.lose(npu);
    group.run(2 * SUCCESSOR_MS);
    expect(group.balancer.lostExperts).toHaveLength(6);
    expect(reasonsOf(group).at(-1)).toContain('6 experts are nowhere, and there is no room for them');
    group.returns(2);
    expect(group.balancer.lostExperts).toEqual([]);
    expect(logOf(group).at(-1)).toBe('rehome installed npu_back');
    expectWhole(group);
  });
});
