/** Which drafts a virtual pod verifies where: by request and position, as its NPUs' messages tell it. */
import { createPod, type GenerateOptions, type PodOptions, type PodStats } from '../../src/index.ts';
import type { StepOutcome, StepPlan } from '../../src/protocol/steps.ts';

/** By prompt and choice, and by how many tokens it had when the first of them was to follow. */
export type DraftsAt = ReadonlyMap<string, ReadonlyMap<number, readonly number[]>>;
export type Call = { readonly prompt: readonly number[]; readonly options: GenerateOptions };

type Slot = { readonly name: string; tokens: number };
type Told = { readonly type: string; readonly plan: StepPlan; readonly outcomes: readonly StepOutcome[] };

/** All calls at once. */
export async function draftsAt(options: PodOptions, calls: readonly Call[]): Promise<{ drafts: DraftsAt; stats: PodStats }> {
  const drafts = new Map<string, Map<number, readonly number[]>>();
  const slots = new Map<string, Slot>();
  const plans = new Map<string, StepPlan[]>();
  const note = ({ attach, output, slot, tokens, samples }: StepPlan['entries'][number], npu: string, outcome: StepOutcome): void => {
    const key = `${npu} ${slot}`;
    if (attach !== null) slots.set(key, { name: `${attach.choice}: ${attach.prompt}`, tokens: attach.prompt.length + output.length });
    const held = slots.get(key);
    if (held === undefined || !samples || tokens.length === 0) return;
    const of = drafts.get(held.name) ?? new Map<number, readonly number[]>();
    drafts.set(held.name, of);
    if (outcome.drafts.length > 0) of.set(held.tokens, outcome.drafts);
    held.tokens += 1 + outcome.more.length;
  };
  const pod = await createPod({
    clock: 'virtual',
    ...options,
    inspect: (inspected) => {
      if (inspected.type !== '@xstate.event') return;
      const { sessionId: npu } = inspected;
      const event = inspected.event as unknown as Told;
      if (event.type === 'STEP') plans.set(npu, [...(plans.get(npu) ?? []), event.plan]);
      if (event.type !== 'LAUNCH_DONE') return;
      const plan = plans.get(npu)?.shift();
      plan?.entries.forEach((entry, index) => {
        note(entry, npu, event.outcomes[index] as StepOutcome);
      });
    },
  });
  try {
    await Promise.all(calls.map(({ prompt, options: how }) => pod.complete(prompt, how)));
    return { drafts, stats: await pod.stats() };
  } finally {
    await pod.close();
  }
}

/** Positions for which both have drafts; and those where the drafts are not the same as far as both go. */
export function compared(a: DraftsAt, b: DraftsAt): { both: number; differing: string[] } {
  let both = 0;
  const differing: string[] = [];
  for (const [name, of] of a)
    for (const [position, drafts] of of) {
      const others = b.get(name)?.get(position);
      if (others === undefined) continue;
      both++;
      const length = Math.min(drafts.length, others.length);
      if (String(drafts.slice(0, length)) !== String(others.slice(0, length))) differing.push(`${name.slice(0, 20)} at ${position}: ${drafts} / ${others}`);
    }
  return { both, differing };
}
