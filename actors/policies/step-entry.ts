/**
 * One sequence's part of a step, as the NPU is told of it.
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
import { keptOf } from './foresight.ts';
import type { Mend } from './kv-mending.ts';
import { outputOf, type RunningSequence } from './running-sequence.ts';

/** So many tokens of a sequence are in a step, which `samples` a new one or does not, and so many drafts may be; `foresees`: as in its entry. */
export type Launched = {
  readonly running: RunningSequence;
  readonly count: number;
  readonly samples: boolean;
  readonly drafts: number;
  readonly foresees: number;
  /** Without all experts. */
  masked?: boolean;
  /** It computes again what lay in memory that went bad (kv-mending.ts), up to a position; missing: its next tokens. */
  readonly mended?: { readonly mend: Mend; readonly to: number };
};

/** A step and what to tell the tasks when it is sent. */
export type Planned = { readonly plan: StepPlan; readonly messages: readonly Commands['send'][] };

const NOTHING: readonly number[] = [];
const ONE_SAMPLED: readonly number[] = [LAST_SAMPLED];

/** A step that does without the experts of these NPUs. */
export function withMask(plan: StepPlan, masked: readonly number[], launched: readonly Launched[]): StepPlan {
  if (masked.length === 0) return plan;
  for (const entry of launched) entry.masked = true;
  return { ...plan, masked };
}

/** The next `count` tokens; `granted`: so many KV blocks at the end of its table are new. A sequence that is attached is told of its whole table: what it shares, and what came from elsewhere. */
export function stepEntry(running: RunningSequence, count: number, drafts: number, foresees: number, granted: number, attach: Sequence | null): StepEntry {
  const { tokens, launched, sampling, foreseen } = running;
  const known = launched === tokens.length ? ONE_SAMPLED : count === 1 ? [tokens[launched] as number] : tokens.slice(launched, launched + count);
  // Nobody at the NPU knows the drafts of a sequence that comes.
  const all = attach === null || drafts === 0 ? known : [...known, ...foreseen.slice(0, drafts)];
  const samples = launched + count === tokens.length + sampling;
  return entryOf(running, launched, all, granted, attach, { generated: outputOf(running) + sampling, samples, drafts, foresees }, keptOf(running, count));
}

/** Tokens of it that were computed already, once more. */
export const againEntry = (running: RunningSequence, start: number, end: number): StepEntry =>
  entryOf(running, start, running.tokens.slice(start, end), 0, null, { generated: 0, samples: false, drafts: 0, foresees: -1 });

/** Told of its whole table too: one whose slot no NPU knows, which one does from now on. */
function entryOf(
  running: RunningSequence,
  start: number,
  tokens: readonly number[],
  granted: number,
  attached: Sequence | null,
  { generated, samples, drafts, foresees }: Pick<StepEntry, 'generated' | 'samples' | 'drafts' | 'foresees'>,
  kept = 0,
): StepEntry {
  const { holding, sequence, slot, mustAttach } = running;
  const table = holding.blocks;
  const attach = mustAttach ? sequence : attached;
  const first_block = attach === null ? table.length - granted : 0;
  running.mustAttach = false;
  const entry: StepEntry = {
    slot,
    start,
    tokens,
    first_block,
    blocks: first_block === table.length ? NOTHING : table.slice(first_block),
    shared: attach === null ? 0 : holding.path.length,
    generated,
    samples,
    drafts,
    foresees,
    attach,
    output: attach === null ? NOTHING : running.tokens.slice(sequence.prompt.length),
  };
  return kept > 0 ? { ...entry, kept } : entry;
}
