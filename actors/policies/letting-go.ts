/**
 * Steps that compute who is to be let go of, or who has ended: they are waited for, and no longer, should they wait for an NPU that is lost. The NPUs know (undone-steps.ts).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { letGo } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { Report } from './rank-reports.ts';
import type { StepScheduler } from './step-scheduler.ts';

type Group = { readonly scheduler: StepScheduler; readonly npus: readonly Address[] };

export const lettingGo = ({ scheduler, npus }: Group): Commands['send'][] => (scheduler.isLettingGo ? givingUp({ scheduler, npus }) : []);

/** No step of these waits for who is lost. */
export const givingUp = ({ scheduler, npus }: Group): Commands['send'][] =>
  scheduler.isStepping ? npus.map((npu) => ({ to: npu, message: letGo(scheduler.step) })) : [];

/** What came of a step. Where nobody is left who waits, what is launched still was for who has ended: nobody will come to be let go of. */
export function retiring(group: Group, { outcomes, us, draft_us }: Report): Commands['send'][] {
  const sends = group.scheduler.retire(outcomes, us, draft_us);
  if (!group.scheduler.hasWork) sends.push(...givingUp(group));
  return sends;
}

/** Steps from the next one on do without these NPUs' experts; one that waits for any of them is that next one. */
export function mask(group: Group, masked: readonly number[]): Commands['send'][] {
  group.scheduler.masked = masked;
  return givingUp(group);
}
