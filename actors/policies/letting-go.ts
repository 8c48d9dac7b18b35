/**
 * Steps that compute who is to be let go of, or who has ended: they are waited for, and no longer, should they wait for an NPU that is lost. The NPUs know (undone-steps.ts).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { letGo } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { StepScheduler } from './step-scheduler.ts';

export const lettingGo = ({ scheduler, npus }: { readonly scheduler: StepScheduler; readonly npus: readonly Address[] }): Commands['send'][] =>
  scheduler.isLettingGo ? givingUp({ scheduler, npus }) : [];

/** No step of these waits for who is lost. */
export const givingUp = ({ scheduler, npus }: { readonly scheduler: StepScheduler; readonly npus: readonly Address[] }): Commands['send'][] =>
  scheduler.isStepping ? npus.map((npu) => ({ to: npu, message: letGo(scheduler.step) })) : [];

/** Nobody is left who waits, and what is launched still was for who has ended: nobody will come to be let go of. */
export const leaving = (group: { readonly scheduler: StepScheduler; readonly npus: readonly Address[] }): Commands['send'][] =>
  group.scheduler.hasWork ? [] : givingUp(group);

/** Steps from the next one on do without these NPUs' experts; one that waits for any of them is that next one. */
export function mask(group: { readonly scheduler: StepScheduler; readonly npus: readonly Address[] }, masked: readonly number[]): Commands['send'][] {
  group.scheduler.masked = masked;
  return givingUp(group);
}
