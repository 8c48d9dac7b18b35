/** What a virtual pod's control plane is told that no actor hears. @module */
import type { ControlMessage } from '../protocol/messages.ts';
import type { VirtualHost } from '../runtime/virtual-host.ts';
import type { Rebalances } from './expert-balancing.ts';
import type { ScaleRequests } from './scale-requests.ts';
import type { VirtualWorkers } from './virtual-workers.ts';

type Hearers = { readonly host: VirtualHost; readonly scale: ScaleRequests; readonly rebalances: Rebalances; readonly workers: VirtualWorkers };

export function toControl(message: ControlMessage, { host, scale, rebalances, workers }: Hearers): void {
  if (message.type === 'SCALED') scale.answered(message);
  // Not in the midst of a delivery: actors die of it.
  else if (message.type === 'SWITCH_ROLE') host.later(0, () => workers.switchRole(message));
  else if (message.type === 'SUSPECTED' || message.type === 'TRUSTED') host.later(0, () => workers.suspicions.hear(message));
  else rebalances.hear(message);
}
