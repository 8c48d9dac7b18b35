/**
 * Loops that nobody asks for, of a pod at rest: one that has died says nothing, and on a virtual clock, which stands still where nothing is left to do, no watch runs
 * that would find it (platform/control-loops.ts). So each is to have its next look before it, and to be through with what it began.
 * @module
 */
import type { VirtualControl } from '../platform/virtual-control.ts';
import { type Role, roleOf } from '../protocol/address.ts';

/** `rests`: states in which it does nothing; null: it has none. `timer`: of its next look, in these states. */
type Loop = { readonly rests: readonly string[] | null; readonly timer: string | null };
const LOOPS: Partial<Readonly<Record<Role, Loop>>> = {
  'cluster-manager': { rests: null, timer: 'lease' },
  'expert-map': { rests: ['stable'], timer: 'period' },
  scaling: { rests: ['stable', 'lent'], timer: null },
  'role-switch': { rests: ['watching'], timer: null },
};

export function deadLoops({ host, plan }: Pick<VirtualControl, 'host' | 'plan'>): string[] {
  const hasPeriods = plan.options.expert_balancing !== undefined;
  return host.cast.addresses.flatMap((self) => {
    const loop = LOOPS[roleOf(self)];
    if (loop === undefined) return [];
    const state = host.cast.stateOf(self) ?? 'gone';
    if (loop.rests?.includes(state) === false) return [`${self} is ${state}, and nothing is left to happen`];
    const { timer } = loop;
    const looks = timer !== null && (timer !== 'period' || hasPeriods);
    return looks && !host.hasTimer(self, timer) ? [`${self} is ${state}, and will never look again: it has no timer ${timer}`] : [];
  });
}
