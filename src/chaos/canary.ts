/**
 * A bug that a campaign plants itself, in seeds of its own: as long as it is found there, and comes down to the loss that it takes, the campaign would have found others.
 * @module
 */
import type { VirtualControl } from '../platform/virtual-control.ts';
import { roleOf } from '../protocol/address.ts';
import { expandSeed } from './expand.ts';
import type { FaultKind } from './fault-plan.ts';
import type { Verdict } from './invariants.ts';
import { runPlan } from './run.ts';
import { shrinkPlan } from './shrink.ts';
import type { Undisturbed } from './undisturbed.ts';

/** `seed` null: none of `seeds` has found it. `faults`: what was left of that one's plan. */
export type CanaryReport = {
  readonly seeds: { readonly first: number; readonly last: number };
  readonly seed: number | null;
  readonly verdict: Verdict;
  readonly faults: readonly FaultKind[];
};

/** It is met by one seed in four or so. */
const SEEDS = 200;

/** Tasks of a DP group that is lost are not told: their requests wait for ever. */
function plantCanary({ host }: Pick<VirtualControl, 'host'>): void {
  host.hold(({ to, message }) => message.type === 'EXECUTOR_LOST' && roleOf(to) === 'task');
}

/** In the seeds from `first` on, until one has found it; of all kinds of faults and pods, whatever the campaign was about. */
export async function findCanary(first: number, undisturbed: Undisturbed, isOver: () => boolean = () => false): Promise<CanaryReport> {
  const seeds = { first, last: first + SEEDS - 1 };
  for (let seed = first; seed <= seeds.last && !isOver(); seed++) {
    const plan = expandSeed(seed, { real_kernels: 0 });
    const { verdict } = await runPlan(plan, undisturbed, { plant: plantCanary });
    if (verdict === 'held') continue;
    const { plan: smallest } = await shrinkPlan(plan, undisturbed, () => {}, plantCanary);
    return { seeds, seed, verdict, faults: smallest.faults.map(({ kind }) => kind) };
  }
  return { seeds, seed: null, verdict: 'held', faults: [] };
}
