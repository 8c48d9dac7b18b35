/**
 * What drafts that are computed (multi-token prediction) ask of their sequences: KV of their own in the same blocks, which is made of the hidden state of a position
 * and the token behind it, and lies where that token does (src/flowserve/layouts/mtp-layout.ts). So it takes room ahead of the tokens, and who begins with the KV of others
 * lacks the first row; a second layer's is made of what the first has left of the position before, and so lacks two.
 * @module
 */
import type { Drafting } from './drafting.ts';
import type { RunningSequence } from './running-sequence.ts';

/** Whoever goes on from KV that others have computed computes its last positions again, one for each layer that drafts: nobody keeps hidden states. */
export const startFrom = ({ foresight, foreseers }: RunningSequence, known: number): number => (foresight > 0 ? Math.max(0, known - foreseers) : known);

/** It goes on from the KV of so many positions. */
export function goOnFrom(running: RunningSequence, known: number): void {
  running.there = known;
  running.computed = startFrom(running, known);
  running.launched = running.computed;
}

/** Of the next `count` positions, those whose KV is there (`StepEntry.kept`). */
export const keptOf = ({ launched, there }: RunningSequence, count: number): number => Math.max(0, Math.min(count, there - launched));

/** Positions that it needs room for when the first `end` are computed. */
export const reachOf = ({ foresight, sequence }: RunningSequence, end: number): number =>
  foresight === 0 ? end : Math.max(end, Math.min(end + foresight, sequence.prompt.length + sequence.max_tokens));

/** Positions whose KV is whole, so that others may go on from it. */
export const keepable = ({ computed, hole, damage }: RunningSequence): number => Math.min(computed, hole < 0 ? computed : hole, damage[0]?.from ?? computed);

/**
 * Tokens to draft behind a step of `count` more of its tokens (`StepEntry.foresees`), for a sequence that is one of so many. Who goes on without drafts, for they do
 * not pay, has a hole from there on, also when it drafts again.
 */
export function foreseen(running: RunningSequence, count: number, drafting: Drafting, sequences: number): number {
  const { sequence, tokens, launched, sampling, foresight } = running;
  running.coming = 0;
  if (foresight === 0) return -1;
  const samples = launched + count === tokens.length + sampling;
  if (!samples) return 0;
  // Of what is left after this step the next one draws one token itself.
  const left = Math.max(0, sequence.max_tokens - (tokens.length - sequence.prompt.length) - sampling - 2);
  const drafts = sequence.drafts ? drafting.lengthFor(running.drafting, sequences, Math.min(foresight, left)) : 0;
  drafting.launch(running.drafting, drafts);
  running.coming = drafts;
  // At its end there is nothing to draft, which says nothing of whether it pays.
  if (drafts > 0 || launched < sequence.prompt.length || (sequence.drafts && left === 0 && running.hole < 0)) return drafts;
  if (running.hole < 0) running.hole = launched;
  return -1;
}
