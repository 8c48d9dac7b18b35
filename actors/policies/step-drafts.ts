/**
 * The place of drafts in a step: behind the tokens of all who decode, and never at anybody's cost. What pays is drafting.ts's to say; here is what fits.
 * @module
 */
import type { StepOutcome } from '../../src/protocol/steps.ts';
import type { Drafting } from './drafting.ts';
import type { RelationalTensorCache } from './relational-tensor-cache.ts';
import { draftsLeft, missingBlocks, type RunningSequence, tokensToLaunch } from './running-sequence.ts';
import type { Launched } from './step-entry.ts';

/** Rows of a step that drafts may have: those that tokens of sequences which decode leave; half of them where prompts wait for the others. */
export function draftRows(inOrder: readonly RunningSequence[], waiting: number, budget: number): number {
  let decodes = 0;
  while (decodes < inOrder.length && tokensToLaunch(inOrder[decodes] as RunningSequence) === 1) decodes++;
  const left = Math.max(0, budget - decodes);
  return waiting > 0 || decodes < inOrder.length ? Math.floor(left / 2) : left;
}

/**
 * Drafts of a sequence, at most `spare`: as many as pay and as could be wanted; where they are computed, those that are, since it was decided then. Their KV takes
 * blocks only while there is one left for each other sequence of the step, so nobody gives way for them. What they reserve and do not need is the sequence's next.
 */
export function draftsFor(running: RunningSequence, sequences: number, spare: number, drafting: Drafting, cache: RelationalTensorCache): number {
  const { foresight, coming } = running;
  const most = Math.min(draftsLeft(running), spare);
  const wanted = foresight > 0 ? Math.min(most, coming) : drafting.lengthFor(running.drafting, sequences, most);
  if (wanted === 0) return 0;
  const drafts = fitting(running, wanted, sequences, cache);
  if (foresight === 0) drafting.launch(running.drafting, drafts);
  return drafts;
}

function fitting(running: RunningSequence, wanted: number, sequences: number, cache: RelationalTensorCache): number {
  const needed = missingBlocks(running, 1, cache);
  for (let drafts = wanted; drafts > 0; drafts--) {
    const missing = missingBlocks(running, 1 + drafts, cache);
    if (missing === needed || cache.canAllocate(missing + sequences)) return drafts;
  }
  return 0;
}

/** Drafts that a sequence has brought along, for its first step here, of `rows` of its tokens: as many as fit. */
export function broughtDrafts(running: RunningSequence, rows: number, spare: number, sequences: number, cache: RelationalTensorCache): number {
  const { foreseen, tokens, launched } = running;
  if (foreseen.length === 0 || launched + rows < tokens.length) return 0;
  const drafts = Math.min(foreseen.length, spare, draftsLeft(running, launched + rows - 1));
  return drafts > 0 && cache.canAllocate(missingBlocks(running, rows + drafts, cache) + sequences) ? drafts : 0;
}

/** What came of a step's drafts; `us`: what it took, `draft_us` of that to compute those behind it. */
export function noteDrafts(drafting: Drafting, launched: readonly Launched[], outcomes: readonly StepOutcome[], us: number, draft_us: number): void {
  let rows = 0;
  let isDecode = us > 0;
  for (let index = 0; index < launched.length; index++) {
    const { running, count, samples, drafts } = launched[index] as Launched;
    const outcome = outcomes[index] as StepOutcome;
    rows += count + outcome.drafts.length;
    isDecode &&= count === 1 && samples;
    if (samples) drafting.note(running.drafting, outcome, drafts, launched.length);
  }
  if (!isDecode) return;
  drafting.noteTime(us, launched.length);
  drafting.costs.add(rows, us - draft_us);
  if (draft_us > 0) noteRounds(drafting, launched, outcomes, draft_us);
}

/** Drafts are computed in rounds: the first of each layer goes through all rows whose next token is known, the others through one of each sequence. */
function noteRounds(drafting: Drafting, launched: readonly Launched[], outcomes: readonly StepOutcome[], draft_us: number): void {
  const most = Math.max(1, ...launched.map(({ foresees }) => foresees));
  const count = drafting.roundsFor(most);
  const layers = count - most + 1;
  const rows = launched.reduce((sum, { foresees }, index) => {
    const first = foresees < 0 ? 0 : 1 + (outcomes[index] as StepOutcome).more.length;
    return sum + layers * first + Math.max(0, foresees - 1);
  }, 0);
  // A round that nobody needed, where domains take turns, is no measure of one.
  if (rows > 0) drafting.noteRounds(count, Math.round(rows / count), draft_us);
}
