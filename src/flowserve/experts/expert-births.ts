/**
 * The actors of experts, one for each (layer, expert) of a task executor, whichever slots hold its weights: it lives with its primary's NPU.
 * @module
 */
import { expert } from '../../../actors/expert.ts';
import { type ExpertMap, replicasOf } from '../../../actors/policies/expert-placement/expert-map.ts';
import { type Address, address, expertAddress } from '../../protocol/address.ts';
import { loaded } from '../../protocol/constructors.ts';
import type { Message } from '../../protocol/messages.ts';
import { executorOfNpu, npuOfExpert } from '../../protocol/topology.ts';
import type { Birth } from '../../runtime/cast.ts';
import type { Directory } from '../../runtime/directory.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import { layersWithExperts } from './expert-slots.ts';
import { slotPlace } from './slot-places.ts';

type Host = { readonly spawn: (address: Address, birth: Birth) => void; readonly send: (to: Address, from: Address, message: Message) => void };

/** Those whose actors live with the NPU, ascending. */
export function expertsAt({ hosting: { deployment }, config }: AnyPodPlan, npu: number): number[] {
  const { experts } = executorOfNpu(deployment, npu);
  return Array.from({ length: config.moe.experts }, (_, id) => id).filter((id) => npuOfExpert(id, experts) === npu);
}

/** Brings those of the NPU to life; `map`: which slots hold them. */
export function spawnExperts(plan: AnyPodPlan, directory: Directory, npu: number, map: ExpertMap, host: Host): void {
  const { id: executor, experts } = executorOfNpu(plan.hosting.deployment, npu);
  const own = expertsAt(plan, npu);
  for (const [index, layer] of layersWithExperts(plan.config).entries()) {
    for (const id of own) {
      const self = expertAddress(executor, layer, id);
      const [first = 0] = replicasOf(map, index, id);
      const place = slotPlace(plan, directory, experts, layer, first);
      host.spawn(self, { machine: expert, input: { self } });
      host.send(self, address('npu', npu), loaded(place.npu, place.address, place.bytes));
    }
  }
}
