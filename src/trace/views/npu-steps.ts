/**
 * The steps of each NPU, from STEP to LAUNCH_DONE, and whose sequences they computed. A STEP names slots; who holds one was said when it was taken.
 * One that was launched while another ran begins when that one ends.
 * @module
 */
import { idOf, roleOf } from '../../protocol/address.ts';
import { taskId } from '../../protocol/messages.ts';
import type { StepEntry, StepPlan } from '../../protocol/steps.ts';
import type { ActRecord } from '../act-record.ts';

/** `recompute`: positions that were computed before a preemption. */
export type PartKind = 'prefill' | 'decode' | 'recompute';

/** One sequence's part of a step. */
export type StepPart = {
  readonly request: number;
  readonly choice: number;
  readonly kind: PartKind;
  /** Positions `start` … `start + tokens − 1`. */
  readonly start: number;
  readonly tokens: number;
  /** Whether a token came of it. */
  readonly samples: boolean;
  /** It gets its slot with it: for the first time, or after a preemption. Positions before `start` were cached then. */
  readonly attaches: boolean;
};

export type NpuStep = {
  readonly npu: number;
  readonly step: number;
  began_us: number;
  readonly parts: readonly StepPart[];
  /** Of the step that it was planned ahead of: when it was planned, they had not been computed. */
  readonly parts_before: readonly StepPart[];
  /** Of all parts. */
  readonly tokens: number;
  /** The act of the DP group that planned it. */
  readonly cause: number;
  ended_us: number;
  /** `lost`: its NPU came to life anew before it ended. */
  outcome: 'running' | 'done' | 'failed' | 'lost';
};

const NOTHING: readonly StepEvent[] = [];

export type StepEvent = { readonly what: 'began' | 'ended'; readonly step: NpuStep };

/** `boundary`: the position from which on its tokens are new. */
type Holder = { readonly request: number; readonly choice: number; readonly isAgain: boolean; readonly boundary: number };
/** `next`: launched, and not begun; `failed`: the number of the last step that failed, or 0. */
type Npu = { readonly slots: Map<number, Holder>; open: NpuStep | null; next: NpuStep | null; last: NpuStep | null; failed: number };

export class NpuSteps {
  readonly #npus = new Map<number, Npu>();
  /** By task: the NPUs on which it has had a slot before. */
  readonly #known = new Map<number, Set<number>>();

  /** The step that runs there now. */
  running(npu: number): NpuStep | null {
    return this.#npus.get(npu)?.open ?? null;
  }

  feed({ to, message, machine, time_us, cause }: ActRecord): readonly StepEvent[] {
    if (roleOf(to) !== 'npu') return NOTHING;
    const id = idOf(to);
    if (message === null) return machine === null ? NOTHING : this.#restart(id, time_us);
    switch (message.type) {
      case 'STEP':
        return this.#launch(id, message.plan, time_us, cause);
      case 'LAUNCH_DONE':
        return this.#end(id, time_us, 'done');
      case 'LAUNCH_FAILED':
        return this.#end(id, time_us, 'failed');
      case 'RELEASE_SLOTS':
        for (const slot of message.slots) this.#npus.get(id)?.slots.delete(slot);
        return NOTHING;
      default:
        return NOTHING;
    }
  }

  /** The request is over: its id may come again. */
  forget(request: number, choices: number): void {
    for (let choice = 0; choice < choices; choice++) this.#known.delete(taskId({ request, choice }));
  }

  #launch(id: number, plan: StepPlan, time_us: number, cause: number): readonly StepEvent[] {
    const npu = this.#npus.get(id) ?? { slots: new Map(), open: null, next: null, last: null, failed: 0 };
    this.#npus.set(id, npu);
    // Its group had not heard yet.
    if (plan.after !== 0 && plan.after === npu.failed) return NOTHING;
    const step = this.#stepOf(id, npu, plan, time_us, cause);
    if (npu.open === null) return [this.#begin(npu, step, time_us)];
    npu.next = step;
    return NOTHING;
  }

  #begin(npu: Npu, step: NpuStep, began_us: number): StepEvent {
    step.began_us = began_us;
    step.ended_us = began_us;
    npu.open = step;
    return { what: 'began', step };
  }

  #stepOf(id: number, npu: Npu, plan: StepPlan, began_us: number, cause: number): NpuStep {
    for (const slot of plan.detach) npu.slots.delete(slot);
    const parts = plan.entries.flatMap((entry) => this.#partOf(id, npu, entry));
    const tokens = plan.entries.reduce((sum, entry) => sum + entry.tokens.length, 0);
    const before = plan.after === 0 ? null : (npu.open ?? npu.last);
    const parts_before = before !== null && before.step === plan.after ? before.parts : [];
    return { npu: id, step: plan.step, began_us, ended_us: began_us, parts, parts_before, tokens, cause, outcome: 'running' };
  }

  /** None where the trace begins after the slot was taken. */
  #partOf(id: number, npu: Npu, { slot, attach, output, start, tokens, samples }: StepEntry): StepPart[] {
    if (attach !== null) {
      const { request, choice, prompt } = attach;
      const task = taskId(attach);
      const known = this.#known.get(task) ?? new Set();
      npu.slots.set(slot, { request, choice, isAgain: output.length > 0 || known.has(id), boundary: prompt.length + output.length });
      this.#known.set(task, known.add(id));
    }
    const holder = npu.slots.get(slot);
    if (holder === undefined) return [];
    const { request, choice, isAgain, boundary } = holder;
    // Its KV has come from another task executor, or was kept: but for the last token all is there.
    const isGivenAll = attach !== null && output.length > 0 && start === boundary - 1;
    const kind = start >= boundary || isGivenAll ? 'decode' : isAgain ? 'recompute' : 'prefill';
    return [{ request, choice, kind, start, tokens: tokens.length, samples, attaches: attach !== null }];
  }

  #end(id: number, time_us: number, outcome: NpuStep['outcome']): readonly StepEvent[] {
    const npu = this.#npus.get(id);
    const step = npu?.open ?? null;
    if (npu === undefined || step === null) return NOTHING;
    const { next } = npu;
    npu.open = null;
    npu.next = null;
    npu.last = step;
    step.ended_us = Math.max(time_us, step.began_us);
    step.outcome = outcome;
    if (outcome === 'failed') npu.failed = step.step;
    const ended: StepEvent = { what: 'ended', step };
    return next === null || outcome !== 'done' ? [ended] : [ended, this.#begin(npu, next, step.ended_us)];
  }

  #restart(id: number, time_us: number): readonly StepEvent[] {
    const lost = this.#end(id, time_us, 'lost');
    this.#npus.delete(id);
    return lost;
  }
}
