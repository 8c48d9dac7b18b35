/**
 * A step's number, and one sequence's part of it, as the NPU is told of it.
 *
 * A step may be planned while the one before it runs (asynchronous scheduling, DeepServe §4.2):
 *
 *   NPU         │ step n             │ step n + 1         │ step n + 2
 *   scheduler     plan n + 1 ────────▶ retire n, plan n + 2 ─▶ …
 *
 * How many tokens each sequence computes does not depend on which they are, but for drafts: how many of those were right only the NPU knows when it begins the next step. What n turns out to end, n + 1 computes in vain, and nobody hears of it.
 * @module
 */
import type { Commands, Sequence } from '../../src/protocol/messages.ts';
import { LAST_SAMPLED, type StepEntry, type StepPlan } from '../../src/protocol/steps.ts';
import { outputOf, type RunningSequence } from './running-sequence.ts';

/** So many tokens of a sequence are in a step, which `samples` a new one or does not, and so many drafts may be; `foresees`: as in its entry. */
export type Launched = {
  readonly running: RunningSequence;
  readonly count: number;
  readonly samples: boolean;
  readonly drafts: number;
  readonly foresees: number;
};

/** A step and what to tell the tasks when it is sent. */
export type Planned = { readonly plan: StepPlan; readonly messages: readonly Commands['send'][] };

/** Step numbers travel as int32, and 0 means none: after the last comes 1 again. */
const STEPS = 2 ** 31 - 1;
export const nextStep = (step: number): number => (step % STEPS) + 1;

const NOTHING: readonly number[] = [];
const ONE_SAMPLED: readonly number[] = [LAST_SAMPLED];

/** The next `count` tokens; `granted`: so many KV blocks at the end of its table are new. A sequence that is attached is told of its whole table: what it shares, and what came from elsewhere. */
export function stepEntry(running: RunningSequence, count: number, drafts: number, foresees: number, granted: number, attach: Sequence | null): StepEntry {
  const { holding, tokens, launched, sampling, sequence, slot, foreseen } = running;
  const known = launched === tokens.length ? ONE_SAMPLED : count === 1 ? [tokens[launched] as number] : tokens.slice(launched, launched + count);
  const table = holding.blocks;
  const shared = attach === null ? 0 : holding.path.length;
  const first_block = attach === null ? table.length - granted : 0;
  return {
    slot,
    start: launched,
    // Nobody at the NPU knows the drafts of a sequence that comes.
    tokens: attach === null || drafts === 0 ? known : [...known, ...foreseen.slice(0, drafts)],
    first_block,
    blocks: first_block === table.length ? NOTHING : table.slice(first_block),
    shared,
    generated: outputOf(running) + sampling,
    samples: launched + count === tokens.length + sampling,
    drafts,
    foresees,
    attach,
    output: attach === null ? NOTHING : tokens.slice(sequence.prompt.length),
  };
}
