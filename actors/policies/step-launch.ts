/** A sequence's next tokens go into a step: blocks for them, and what is remembered of it until the step has come back. */
import type { Sequence } from '../../src/protocol/messages.ts';
import type { StepEntry } from '../../src/protocol/steps.ts';
import type { Drafting } from './drafting.ts';
import { foreseen } from './foresight.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import { missingBlocks, type RunningSequence } from './running-sequence.ts';
import { type Launched, stepEntry } from './step-entry.ts';

/** `running`: sequences that do. */
export type Surroundings = { readonly cache: RelationalTensorCache; readonly drafting: Drafting; readonly running: number };

export function launch(
  running: RunningSequence,
  count: number,
  drafts: number,
  attach: Sequence | null,
  launched: Launched[],
  { cache, drafting, running: batch }: Surroundings,
): StepEntry {
  const granted = missingBlocks(running, count + drafts, cache);
  if (granted === 1) cache.appendBlock(running.holding);
  else if (granted > 1) cache.allocBlocks(running.holding, granted);
  const foresees = foreseen(running, count, drafting, batch);
  const entry = stepEntry(running, count, drafts, foresees, granted, attach);
  running.flights++;
  running.launched += count;
  running.slack += drafts;
  if (entry.samples) running.sampling++;
  launched.push({ running, count, samples: entry.samples, drafts, foresees });
  return entry;
}
