/**
 * What memory that went bad costs a sequence: the positions that lay in it, and no others.
 *
 *   a step finds blocks that do not hold what was written there, and is not heard of: its tokens might have come of that
 *     ─▶ the blocks are mapped out, for good ─▶ whoever holds one gets another in its place ─▶ computes what lay there ─▶ goes on where it was
 *
 * What later blocks hold was computed by steps that had looked at all they read, so it stays.
 * Where some experts are done without it does not: the same would not come of it again, so the sequence gives way, and all of it is computed anew (room-for-steps.ts).
 * The NPU has forgotten the slots of the batch that failed, so each sequence is attached again with its next tokens. Its KV is where it was.
 */
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { StepEntry } from '../../src/protocol/steps.ts';
import { goOnFrom } from './foresight.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import type { RunningSequence } from './running-sequence.ts';
import { againEntry, type Launched } from './step-entry.ts';

/** Positions whose KV is to be computed again: from `launched` on they are in no step, up to `from` it is there. */
export type Mend = { from: number; launched: number; readonly to: number };

/** What was lent of a step before it was over may have come of what went bad: it is computed again elsewhere, and none of those requests is to blame. */
export const LENT_AHEAD: ErrorRecord = { code: 'worker_ended', message: 'memory went bad under a step whose KV was lent already', param: null };

/** Its steps are as if they had never been launched. False: there is no block for it, so it has to give way. */
export function goBack(running: RunningSequence, damaged: ReadonlySet<number>, cache: RelationalTensorCache): boolean {
  const { holding } = running;
  const known = Math.max(running.there, running.computed);
  goOnFrom(running, known);
  running.foreseen = [];
  running.mustAttach = true;
  for (const mend of running.damage) mend.launched = mend.from;
  for (const [index, block] of holding.blocks.entries()) {
    if (!damaged.has(block)) continue;
    if (!cache.replace(holding, index)) return false;
    const from = index * cache.block_size;
    const to = Math.min(from + cache.block_size, known);
    if (from >= to) continue;
    // What lies there has been mended, or was to be: not any more.
    const others = running.damage.filter((mend) => mend.to <= from || mend.from >= to);
    running.damage = [...others, { from, launched: from, to }].toSorted((a, b) => a.from - b.from);
    // Of drafts' KV there is none.
    if (running.foresight > 0) running.hole = running.hole < 0 ? from : Math.min(running.hole, from);
  }
  return true;
}

/** What is to be computed again of it next; null: all of that is in its steps. */
export const nextMend = ({ damage }: RunningSequence): Mend | null => damage.find(({ launched, to }) => launched < to) ?? null;

/** At most `count` positions of it. Nobody hears of what follows them: it is known. */
export function launchMend(running: RunningSequence, mend: Mend, count: number, launched: Launched[]): StepEntry {
  const start = mend.launched;
  mend.launched = Math.min(mend.to, start + count);
  running.flights++;
  launched.push({ running, count: 0, samples: false, drafts: 0, foresees: -1, mended: { mend, to: mend.launched } });
  return againEntry(running, start, mend.launched);
}

/** It was computed again. */
export function landMend(running: RunningSequence, { mend, to }: NonNullable<Launched['mended']>): void {
  mend.from = to;
  if (to === mend.to) running.damage = running.damage.filter((other) => other !== mend);
}
