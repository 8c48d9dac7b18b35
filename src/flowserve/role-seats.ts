/**
 * Which task executors have attention NPUs take the roles of lost expert NPUs, and who may give way to whom (actors/role-switch.ts).
 * @module
 */
import type { Home, Place, RoleSeats } from '../../actors/policies/role-places.ts';
import type { DpGroupPlace, Executor } from '../protocol/topology.ts';
import type { Hosting } from '../runtime/directory.ts';
import { takesTurns } from './layouts/dp-domains.ts';
import type { LayoutOptions } from './layouts/step-layout.ts';

/** EP groups as large as this do without missing experts meanwhile (ReviveMoE, arXiv 2602.21140: so few of all experts are missing that the model bears it). */
const LARGE_EP = 32;

/** Lost workers of its have no successors, and its experts are on NPUs of their own. Where domains take turns none of their NPUs is spared. */
export const switchesRoles = (
  { respawn, role_switch, deployment }: Hosting,
  options: Pick<LayoutOptions, 'schedule'>,
  { split, groups, experts }: Executor,
): boolean =>
  respawn === false && role_switch !== 'never' && split !== undefined && groups.length > 1 && !takesTurns({ ...options, deployment }, experts.first);

/** Requests wait for it. */
export const waitsForSwitch = ({ role_switch = 'auto' }: Hosting, { experts }: Executor): boolean =>
  role_switch === 'auto' ? (experts.serving ?? experts.npus) < LARGE_EP : role_switch === 'foreground';

/** Of an executor, with workers that have nothing else. */
export function roleSeatsOf({ deployment, workers, worker_of_npu }: Hosting, { id, groups }: Executor): RoleSeats {
  const places: Place[] = [];
  const homes: Home[] = [];
  for (let worker = 0; worker < workers; worker++) {
    const own = deployment.npus.filter((npu) => worker_of_npu[npu.id] === worker);
    if (own.some(({ executor }) => executor !== id)) continue;
    const npus = own.map((npu) => npu.id);
    if (own.some(({ kind }) => kind === 'experts')) homes.push({ worker, npus });
    else places.push({ worker, npus, groups: [...new Set(own.flatMap((npu) => (npu.kind === 'attention' ? [npu.group] : [])))] });
  }
  return { groups: groups.map((group) => ({ group, npus: (deployment.groups[group] as DpGroupPlace).npus })), places, homes };
}

/** The NPU's die may be another's, of the same executor, once it has given its place. */
export const isPlaceOfSwitch = (hosting: Hosting, options: Pick<LayoutOptions, 'schedule'>, npu: number): boolean => {
  const place = hosting.deployment.npus[npu];
  return place?.kind === 'attention' && switchesRoles(hosting, options, hosting.deployment.executors[place.executor] as Executor);
};
