/** A step under way: what it computes, and how far it has come. @module */
import type { StepPlan } from '../protocol/steps.ts';
import type { Span } from './arithmetic.ts';
import type { Readout } from './readout.ts';
import type { Part } from './step-parts.ts';

export type Run = {
  /** With all tokens and drafts in it. */
  readonly plan: StepPlan;
  readonly spans: readonly Span[];
  readonly rows: number;
  readonly parts: readonly Part[];
  /** What its rows are read for: parts behind those. */
  readonly readout: Readout;
  /** Its last ones: the drafter's. */
  tail: readonly Part[];
  /** The part that comes next. */
  part: number;
  /** It goes through micro-batches, before the part that comes next. */
  isInBatches: boolean;
  /** Of the rows as the main model has left them; null: they are as it left them. */
  digest: number | null;
};

export function partOf({ parts, readout, tail }: Run, index: number): Part | undefined {
  const behind = index - parts.length;
  if (behind < 0) return parts[index];
  return behind < readout.parts.length ? readout.parts[behind] : tail[behind - readout.parts.length];
}

/** One token of each sequence, with its drafts, and each is followed by another. */
export const isDecode = ({ entries }: StepPlan): boolean => entries.every(({ tokens, drafts, samples }) => tokens.length === 1 + drafts && samples);
