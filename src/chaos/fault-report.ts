/** What a run tells of each fault of its plan. @module */
import { phaseOf } from './fault-kinds.ts';
import type { Fault, FaultKind } from './fault-plan.ts';

/** `effect`: how much it changed, in events, steps, messages, or what was under way; 0: nothing, so nothing was survived. */
export type FaultReport = {
  readonly kind: FaultKind;
  readonly phase: ReturnType<typeof phaseOf>;
  readonly struck: boolean;
  readonly effect: number;
  /** Of a step that failed: what whoever held a request says of it, and the calls, by id, that its DP group held then, which may fail with it. */
  readonly failing?: { readonly message: string; readonly calls: readonly string[] };
  /** Of a client that left: whose call it was, in the plan. */
  readonly call?: number;
};

/** So far. `failing`: calls that its DP group held. */
type Struck = { readonly fault: Fault; readonly hasStruck: boolean; readonly effect: number; readonly failing: ReadonlySet<string> };

export const stepFailure = (npu: number): string => `a fault plan let a step of NPU ${npu} fail`;

export const reportOf = ({ fault, hasStruck, effect, failing }: Struck): FaultReport => ({
  ...{ kind: fault.kind, phase: phaseOf(fault), struck: hasStruck, effect },
  ...(fault.kind === 'step-fails' && { failing: { message: stepFailure(fault.npu), calls: [...failing] } }),
  ...(fault.kind === 'client-gone' && { call: fault.call }),
});
