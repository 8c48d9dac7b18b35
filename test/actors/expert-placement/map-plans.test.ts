/** What a rebalance says that it did. */
import { expect, it } from 'vitest';
import { mapAfter } from '../../../actors/policies/expert-placement/map-rounds.ts';
import { nativeMap } from '../../../actors/policies/expert-placement/native.ts';
import { planRebalance } from '../../../actors/policies/map-plans.ts';
import { OLMOE_SHAPE, olmoeLoads } from './loads.ts';

it('a rebalance that was forced is called better only where the whole of it is predicted better', () => {
  let map = nativeMap(OLMOE_SHAPE);
  const causes = new Set<string>();
  // The hierarchical policy is the less even one: after the global one it is better in some layers and worse in others.
  for (const [domain, policy] of [
    ['github', 'global'],
    ['github', 'hierarchical'],
    ['c4', 'hierarchical'],
    ['c4', 'global'],
    ['c4', 'fixed_primaries'],
  ] as const) {
    const { rounds, before, after, cause, reason } = planRebalance(map, [], { policy, windows: 1, threshold: 1 }, olmoeLoads(domain), 'asked', true);
    expect(cause).toBe(after < before ? 'better' : 'forced');
    if (cause === 'better') expect(reason).toContain(`${before.toFixed(3)} → ${after.toFixed(3)}`);
    else expect(reason).toContain('no better');
    causes.add(cause);
    for (const changes of rounds) map = mapAfter(map, changes, false);
  }
  expect(causes).toEqual(new Set(['better', 'forced']));
});
