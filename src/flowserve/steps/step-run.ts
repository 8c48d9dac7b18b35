/** A step under way: what it computes, and how far it has come. @module */
import type { ExpertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import type { StepOutcome, StepPlan } from '../../protocol/steps.ts';
import type { Checksum } from '../distflow/checksum.ts';
import type { Speculative } from '../drafters/speculative.ts';
import type { Span } from '../forward/arithmetic.ts';
import type { Readout } from './readout.ts';
import type { Part } from './step-parts.ts';

export type Done = { readonly state: 'done'; readonly plan: StepPlan; readonly outcomes: readonly StepOutcome[]; readonly digest: number };

/**
 * `asked`: peers have just been asked, and some may have answered already. Whoever polls serves first what peers ask of this NPU: a step that goes on
 * to its next layer at once keeps them waiting for that long, and the next layer waits for them in turn (2 NPUs on 2 workers: a fifth of the tokens). But
 * not who is ahead already (`goesOnFirst`).
 */
export type Poll = { readonly state: 'pending' | 'asked' } | Done;

/** In the step of that number, the KV of layers 0 … `layers` − 1 is in its blocks. */
export type OnLayers = (step: number, layers: number) => void;

export type StepOptions = {
  readonly map?: ExpertMap;
  /** NPUs that are lost, as they are at any time. */
  readonly lost?: ReadonlySet<number>;
  readonly speculative?: Speculative | undefined;
  readonly onLayers?: OnLayers;
  /** By which KV is looked at (kv-sums.ts); missing: it is taken for what was written. */
  readonly kv_checksum?: Checksum | undefined;
  /** Told when a step begins to compute the drafts behind it. */
  readonly onDrafts?: () => void;
};

export type Run = {
  /** With all tokens and drafts in it. */
  readonly plan: StepPlan;
  readonly spans: readonly Span[];
  /** Where its rows lie when all layers are computed, those of them that are read by then. */
  readonly left: readonly Span[];
  readonly rows: number;
  readonly parts: readonly Part[];
  /** What its rows are read for: parts behind those. */
  readonly readout: Readout;
  /** Its last ones: the drafter's. */
  readonly tail: readonly Part[];
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
