/**
 * Somebody is to be let go of whom a step computes: he waits for its end, and no longer, should it wait for an NPU that is lost. The NPUs know (undone-steps.ts).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { letGo } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { StepScheduler } from './step-scheduler.ts';

export const lettingGo = ({ scheduler, npus }: { readonly scheduler: StepScheduler; readonly npus: readonly Address[] }): Commands['send'][] =>
  scheduler.isLettingGo ? npus.map((npu) => ({ to: npu, message: letGo(scheduler.step) })) : [];
