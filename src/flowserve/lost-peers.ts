/**
 * What a host's NPUs know of those of other hosts: who is lost. The epochs of their dies have risen by then.
 * @module
 */
import type { Directory } from '../runtime/directory.ts';
import type { ExpertService } from './experts/expert-service.ts';

type Host = { readonly lost: Set<number>; readonly services: readonly ExpertService[] };

/** NPUs are lost, or there: exchanges begin anew with those that have other epochs, and domains with those that are there. */
export function noteLosses({ lost, services }: Host, directory: Directory, npus: readonly number[], isLost: (npu: number) => boolean): void {
  for (const npu of npus) {
    lost[isLost(npu) ? 'add' : 'delete'](npu);
    for (const { exchange } of services) exchange.refresh(directory.dieOfNpu(npu));
  }
  for (const service of services) service.reseat();
}
