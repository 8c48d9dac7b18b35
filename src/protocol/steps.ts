/** What an NPU is told to compute in a step, and what comes of it. @module */
import type { ErrorRecord } from './errors.ts';
import type { PositionLogprobs, Sequence } from './messages.ts';

/** In a step that was planned before its predecessor had come back: the token that the slot's last step sampled, whichever it is. */
export const LAST_SAMPLED = -1;

/** When KV is held against the sums that were taken of it (flowserve/kv/kv-sums.ts). */
export const KV_CHECKS = ['each-step', 'off'] as const;
export type KvChecks = (typeof KV_CHECKS)[number];

/** The same of rows on their way from NPU to NPU (xccl/row-sums.ts). */
export const ROW_CHECKS = ['each-step', 'off'] as const;
export type RowChecks = (typeof ROW_CHECKS)[number];

/** The same of weights (flowserve/weights/weight-checks.ts). */
export const WEIGHT_CHECKS = ['scrub', 'each-step', 'off'] as const;
export type WeightCheck = (typeof WEIGHT_CHECKS)[number];

/** One sequence's part of a step: `tokens` enter at positions `start`…; `blocks` are KV blocks newly granted, from index `first_block` of its table. */
export type StepEntry = {
  readonly slot: number;
  readonly start: number;
  /** Or LAST_SAMPLED, alone. */
  readonly tokens: readonly number[];
  readonly first_block: number;
  readonly blocks: readonly number[];
  /** So many of `blocks`, the first ones, are read only, since others use them too; but for those that stand in for one that went bad, which it writes. */
  readonly shared: number;
  /** Output tokens before this step: what min_tokens counts. */
  readonly generated: number;
  /** Whether this step's last token yields a new one (a prefill that goes on does not). */
  readonly samples: boolean;
  /**
   * After its one token at most so many drafts are verified: those that the NPU's drafter has. Where the step before it was verified too, `start` and `generated` are
   * the least that they may be; the NPU knows by how many tokens the slot has got further. With `attach` they are the last of `tokens`.
   */
  readonly drafts: number;
  /** Where drafts are computed: so many are to follow what this step draws; 0: only what they are computed from is kept up; −1: not even that, from now on. */
  readonly foresees: number;
  /**
   * So many of `tokens`, the first ones, are computed for what is made of their rows alone: their KV is there, others may read it, and it is not written again.
   * Missing: none.
   */
  readonly kept?: number;
  /** Present when the slot is taken: what the sampler keeps for it. */
  readonly attach: Sequence | null;
  /** With `attach`: output tokens that a preempted sequence had, recounted for its penalties. */
  readonly output: readonly number[];
};

export type StepPlan = {
  readonly step: number;
  /** The step that it was planned ahead of, and fails with; 0: none. */
  readonly after: number;
  readonly entries: readonly StepEntry[];
  /** Slots whose sequences are gone. */
  readonly detach: readonly number[];
  /** Gates choose no expert that these NPUs alone have: they are lost, and the pod serves on without (`degraded`). Missing: none is. */
  readonly masked?: readonly number[];
};

/** A token that a step drew, and its log-probabilities if they are asked for. */
export type Drawn = { readonly token: number; readonly logprobs: PositionLogprobs | null };

/**
 * What came of one entry, in the plan's order: `token` is −1 where none was sampled; `error` where logits were not finite, behind the tokens that are here.
 * `drafts`: those that were verified. As many of them as there are tokens in `more` are what the model drew itself, and each led to one more.
 * `foreseen`: with the first token, drafts behind it, where layers compute them: so whoever goes on with the sequence elsewhere has them.
 */
export type StepOutcome = Drawn & {
  readonly more: readonly Drawn[];
  readonly drafts: readonly number[];
  readonly prompt_logprobs: readonly PositionLogprobs[] | null;
  readonly error: ErrorRecord | null;
  readonly foreseen?: readonly number[];
};

/** A DP group's to itself: it begins with what has come, behind all mail that waits. */
export const stepDue = (): { readonly type: 'STEP_DUE' } => ({ type: 'STEP_DUE' });
