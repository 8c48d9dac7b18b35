/**
 * Ways to place experts, each a pure function of the same form: loads and a shape in, an expert map out.
 *
 *   native            as the checkpoint has them, no replica: the baseline
 *   fixed_primaries   xDeepServe §4.5: primaries stay, redundant slots take copies of the busiest
 *   hierarchical      DeepSeek EPLB: groups of experts to nodes, replicas within each
 *   global            DeepSeek EPLB, over all ranks alike
 *   mirrored          each expert on two ranks, whatever the loads: so that none is lost with one
 * @module
 */
import type { ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, NO_EXPERT } from './expert-map.ts';
import { fixedPrimariesMap } from './fixed-primaries.ts';
import { globalMap, hierarchicalMap } from './hierarchical.ts';
import { type Freedom, keepInPlace } from './keep-in-place.ts';
import { mirroredMap } from './mirrored.ts';
import { nativeMap, nativeSlots } from './native.ts';
import type { PlacementShape } from './placement-shape.ts';
import { withoutTwins } from './without-twins.ts';

/** The same arguments give the same map, to the last slot. @throws `invalid_request` for a shape that the policy cannot fill */
export type PlaceExperts = (loads: ExpertLoads, shape: PlacementShape) => ExpertMap;

export const PLACEMENT_POLICIES = ['native', 'fixed_primaries', 'hierarchical', 'global', 'mirrored'] as const;
export type PlacementPolicy = (typeof PLACEMENT_POLICIES)[number];

export const PLACE_EXPERTS: Readonly<Record<PlacementPolicy, PlaceExperts>> = {
  native: (_loads, shape) => nativeMap(shape),
  fixed_primaries: fixedPrimariesMap,
  hierarchical: hierarchicalMap,
  global: globalMap,
  mirrored: (_loads, shape) => mirroredMap(shape),
};

/** What of its plans may change places without their being another plan. */
export const FREEDOM_OF: Readonly<Record<PlacementPolicy, Freedom>> = {
  native: 'slots',
  fixed_primaries: 'slots',
  hierarchical: 'nodes',
  global: 'ranks',
  mirrored: 'slots',
};

/** The policy's plan as it may be installed: nothing lies twice on a rank. */
export function installablePlan(policy: PlacementPolicy, loads: ExpertLoads, shape: PlacementShape): ExpertMap {
  const plan = PLACE_EXPERTS[policy](loads, shape);
  if (policy !== 'fixed_primaries') return withoutTwins(plan, loads);
  const primaries = nativeSlots(shape);
  return withoutTwins(plan, loads, (at) => primaries[at] !== NO_EXPERT);
}

/** The same, turned so that as much as possible stays where it is. */
export function planFrom(present: ExpertMap, policy: PlacementPolicy, loads: ExpertLoads): ExpertMap {
  return keepInPlace(installablePlan(policy, loads, present.shape), present, FREEDOM_OF[policy]);
}
