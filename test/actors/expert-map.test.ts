/** The loop that moves experts, with NPUs that answer, fail, die or say nothing in any of its states: service goes on, the map stays whole, the reason is told. */
import { describe, expect, it } from 'vitest';
import { replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import { BROADCAST_MS_MAX, rebalance } from '../../src/protocol/expert-maps.ts';

import { Group, once, PERIOD_MS, SLOT_BYTES, STATES } from './expert-map-rig.ts';

/** Of a rebalance: each may wait for a broadcast. */
const ROUNDS_MAX = 10;

describe('the expert map', () => {
  it.each(['global', 'hierarchical', 'fixed_primaries'] as const)('should move experts while everybody goes on, and then be better: %s', (policy) => {
    const group = new Group(policy);
    group.tell(rebalance(1, false));
    group.run();
    const [outcome] = group.outcomes;
    expect(outcome).toMatchObject({ trigger: 'asked', installed: true });
    expect(outcome?.after).toBeLessThan(outcome?.before ?? 0);
    expect([...group.balancer.map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const map of group.maps) expect(map.expertOfSlot).toEqual(group.balancer.map.expertOfSlot);
    expect(group.state).toBe('stable');
    expect(group.unexpected).toEqual([]);
    // Each expert that moved has heard that it does, and where it lies then.
    const changing = group.experts.filter(({ message }) => message.type === 'REPLICAS_CHANGING').map(({ to }) => to);
    const told = new Map(group.experts.flatMap(({ to, message }) => (message.type === 'REPLICAS_CHANGED' ? [[to, message.npus] as const] : [])));
    expect(new Set(changing)).toEqual(new Set(told.keys()));
    for (const [to, npus] of told) {
      const [layer, expert] = to.slice('expert/'.length).split('.').map(Number) as [number, number];
      const slots = replicasOf(group.balancer.map, [3, 5].indexOf(layer), expert);
      expect(npus).toEqual([...new Set([...slots].map((slot) => Math.floor(slot / 3)))]);
    }
    // The same loads again: nothing is better now.
    group.tell(rebalance(2, false));
    group.run();
    expect(group.outcomes[1]).toMatchObject({ installed: false, slots: 0 });
    expect(group.outcomes[1]?.reason).toContain('no layer is predicted better');
  });

  it('should plan by itself when a period is over, unless imbalance is below the threshold', () => {
    const [eager, patient] = [new Group(), new Group('global', 9)];
    for (const group of [eager, patient]) group.run(PERIOD_MS);
    expect(eager.balancer.outcomes).toMatchObject([{ trigger: 'period', installed: true }]);
    expect(patient.balancer.outcomes).toMatchObject([{ trigger: 'period', installed: false }]);
    expect(patient.balancer.outcomes[0]?.reason).toContain('below the threshold of 9');
    eager.run(5 * PERIOD_MS);
    expect(eager.balancer.progress).toBe(5);
    expect(eager.balancer.progress_ms).toBe(5 * PERIOD_MS);
  });

  const FAULTS = STATES.flatMap((state) =>
    (['silence', 'failure', 'death'] as const)
      .filter((what) => what !== 'failure' || state === 'prefetching' || state === 'loading')
      .map((what) => [state, what] as const),
  );

  it.each(FAULTS)('should go back to the last good map, and say why: in %s, %s', (state, what) => {
    const group = new Group();
    group.fault = once(state, what);
    group.tell(rebalance(1, false));
    group.run(120_000);
    const [outcome] = group.outcomes;
    expect(outcome?.reason).toContain(what === 'silence' ? `${state}: ` : what === 'death' ? 'was lost: killed' : 'corrupt');
    expect(outcome?.reason).toContain('the last good map stands');
    expect(group.state).toBe('stable');
    const { map, lost } = group.balancer;
    expect([...map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const [npu, its] of group.maps.entries()) if (!lost.has(npu)) expect(its.expertOfSlot).toEqual(map.expertOfSlot);
    if (lost.size > 0) {
      // Nobody waits for it for ever: rebalances go on among the others.
      expect(group.balancer.outcomes.at(-1)).toMatchObject({ trigger: 'period', outcome: expect.stringMatching(/installed|unchanged/) });
      for (const npu of [...lost]) group.returns(npu);
    }
    // It is as able as before.
    group.fault = () => 'answer';
    group.tell(rebalance(2, true));
    group.run();
    expect(group.outcomes.at(-1)).toMatchObject({ trigger: 'asked' });
    expect(group.outcomes.at(-1)?.reason).not.toContain('the last good map stands');
    for (const its of group.maps) expect(its.expertOfSlot).toEqual(group.balancer.map.expertOfSlot);
    expect(group.unexpected).toEqual([]);
  });

  it.each(STATES)('should refuse a second rebalance while one is under way: in %s', (state) => {
    const group = new Group();
    const fault = once(state, 'silence');
    group.fault = fault;
    group.tell(rebalance(1, false));
    group.run();
    expect(group.state).toBe(state);
    group.tell(rebalance(2, true));
    group.run();
    expect(group.outcomes).toMatchObject([{ installed: false, reason: `another rebalance is under way, and ${state}` }]);
    group.run(120_000);
    expect(group.outcomes).toHaveLength(2);
  });

  it('should have weights that several get sent to them at once, and count what came which way', () => {
    const group = new Group();
    const sent: number[] = [];
    group.fault = (_, work) => {
      if (work.kind === 'broadcast') sent.push(...work.broadcast.npus.slice(1));
      return 'answer';
    };
    group.tell(rebalance(1, true));
    group.run(ROUNDS_MAX * BROADCAST_MS_MAX);
    const { copied } = group.balancer.log;
    expect(sent.length).toBeGreaterThan(1);
    expect(copied).toMatchObject({ broadcast: { slots: sent.length, bytes: sent.length * SLOT_BYTES }, instead: 0, why: null });
    expect(copied.pulled.bytes).toBe(copied.pulled.slots * SLOT_BYTES);
    expect(group.unexpected).toEqual([]);
  });

  it.each(['silence', 'failure'] as const)('should have a broadcast that does not come pulled by whoever is without it: %s', (what) => {
    const group = new Group();
    const pulled: number[] = [];
    group.fault = (npu, work) => {
      if (work.kind !== 'stage') return 'answer';
      if (work.broadcast !== null) return what === 'failure' ? 'no broadcast' : 'silence';
      pulled.push(npu);
      return 'answer';
    };
    group.tell(rebalance(1, true));
    group.run(ROUNDS_MAX * BROADCAST_MS_MAX);
    const { copied } = group.balancer.log;
    expect(copied.broadcast.slots).toBe(0);
    expect(copied.instead).toBeGreaterThan(1);
    expect(copied.pulled.slots).toBe(pulled.length);
    expect(copied.why).toContain(what === 'failure' ? 'did not come' : '20 s');
    expect(group.outcomes).toMatchObject([{ outcome: 'installed' }]);
    expect(group.unexpected).toEqual([]);
  });
});
