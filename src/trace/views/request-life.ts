/**
 * What became of a request: its events, and where its time went. Times are microseconds of the pod's clock.
 * @module
 */
import type { Address } from '../../protocol/address.ts';
import type { ErrorRecord } from '../../protocol/errors.ts';
import type { NpuStep, PartKind } from './npu-steps.ts';

/**
 * What a sequence does at any time, always exactly one of these:
 * `control` messages between actors on its behalf; `queued` before its first step, in its DP group or for an NPU that serves; `prefill`, `decode`, `recompute`
 * in a step, from STEP to LAUNCH_DONE; `waiting` between two steps; `preempted` from the end of its last step until it is computed again.
 * Where another task executor decodes: `transferring` from its first token until a decode DP group has it; `deferred` there, until it has room for its KV;
 * `receiving` from then until its next token is computed.
 */
export const PHASES = ['control', 'queued', 'prefill', 'transferring', 'deferred', 'receiving', 'decode', 'recompute', 'waiting', 'preempted'] as const;
export type Phase = (typeof PHASES)[number];
export type Breakdown = Record<Phase, number>;

export const noTime = (): Breakdown => ({
  ...{ control: 0, queued: 0, prefill: 0, transferring: 0, deferred: 0, receiving: 0 },
  ...{ decode: 0, recompute: 0, waiting: 0, preempted: 0 },
});
export const sumOf = (breakdown: Readonly<Breakdown>): number => PHASES.reduce((sum, phase) => sum + breakdown[phase], 0);

/** How a choice or a request ended. `open`: the trace ends first. */
export type Ending = 'stop' | 'length' | 'stop_string' | 'finished' | 'cancelled' | 'failed' | 'open';

/** Why it was left out of a step that was planned while it waited. */
export type PassedOver = 'batch_tokens' | 'batch_requests' | 'prefix' | 'kv_blocks';

/** Steps of an NPU in which a sequence that it held had no part. */
export type OthersSteps = { steps: number; us: number; prefill_tokens: number; requests: number[] };

/** A sequence's part of one step. */
export type StepShare = {
  /** Of several ranks the first. */
  readonly npu: number;
  readonly group: number;
  /** Where it is said to be: `npu/3`, or `dp-group/1` of several NPUs. */
  readonly site: Address;
  readonly step: number;
  readonly kind: PartKind;
  readonly start: number;
  readonly tokens: number;
  readonly samples: boolean;
  readonly duration_us: number;
  /** Sequences in the step, this one included, and the tokens of all. */
  readonly sequences: number;
  readonly step_tokens: number;
  /** Prompt tokens of others that the step computed. */
  readonly others_prefill_tokens: number;
  /** `dropped`: what it computed turned out to be past the sequence's end. */
  readonly outcome: NpuStep['outcome'] | 'dropped';
};

export type LifeEvent = { readonly at_us: number; readonly choice: number | null } & (
  | { readonly what: 'received'; readonly prompt_tokens: number; readonly max_tokens: number; readonly choices: number }
  | { readonly what: 'admitted' }
  | { readonly what: 'refused'; readonly error: ErrorRecord }
  /** `npus`: of its DP group, by rank; it waited for the choice of the leader among groups, or, without one, for an NPU that serves. */
  | { readonly what: 'placed'; readonly group: number; readonly npus: readonly number[]; readonly waited_us: number; readonly leader: Address | null }
  /** `ahead`: sequences that the DP group held before it. */
  | { readonly what: 'queued'; readonly site: Address; readonly ahead: number; readonly running_step: number | null }
  /** Its first token is out, and its KV is lent to whoever goes on. */
  | { readonly what: 'prefilled'; readonly group: number; readonly blocks: number }
  | { readonly what: 'decode_chosen'; readonly executor: Address }
  /** Its decode DP group has it, and asks for its KV as soon as there is room. */
  | { readonly what: 'deferred'; readonly site: Address; readonly ahead: number; readonly running_step: number | null }
  | { readonly what: 'receiving'; readonly from: number; readonly group: number; readonly blocks: number; readonly waited_us: number }
  /** It has its KV, and decodes; `waited_us`: since it was asked for. */
  | { readonly what: 'kv_received'; readonly group: number; readonly site: Address; readonly waited_us: number }
  /** Nobody needs what was lent any more. */
  | { readonly what: 'transferred'; readonly group: number }
  /** `others`: steps that ended while it waited; `cached_tokens`: of its prompt, whose KV was there. */
  | {
      readonly what: 'scheduled';
      readonly group: number;
      readonly waited_us: number;
      readonly cached_tokens: number;
      readonly others: OthersSteps;
      readonly passed_over: Partial<Record<PassedOver, number>>;
    }
  | ({ readonly what: 'step' } & StepShare)
  | { readonly what: 'first_token'; readonly delivery_us: number }
  | { readonly what: 'preempted' }
  | { readonly what: 'cancel_asked' }
  | { readonly what: 'stop_string_found' }
  | { readonly what: 'let_go' }
  | { readonly what: 'failed'; readonly error: ErrorRecord }
  | { readonly what: 'choice_ended'; readonly ending: Ending }
  /** What computed it was lost, or its job executor was: it goes on behind the tokens that it has. */
  | { readonly what: 'goes_on'; readonly request: Address; readonly tokens: number; readonly lost: 'executor' | 'job-executor' }
  | { readonly what: 'ended'; readonly error: ErrorRecord | null }
);

/** Between two tokens of a choice, as its output processes got them. */
export type TokenGap = {
  readonly choice: number;
  /** The token that came after it, counted from 1. */
  readonly token: number;
  readonly from_us: number;
  readonly duration_us: number;
  readonly breakdown_us: Breakdown;
  /** The longest step of its own in it. */
  readonly step: StepShare | null;
  readonly others: OthersSteps;
};

export type TokenTimes = { readonly mean: number; readonly p50: number; readonly p99: number; readonly max: number };

export type ChoiceLife = {
  readonly choice: number;
  readonly task: Address;
  /** In order of placement; of several ranks the first. */
  readonly npus: readonly number[];
  readonly ended_us: number;
  readonly ending: Ending;
  readonly tokens: number;
  readonly preemptions: number;
  readonly steps: Readonly<Record<PartKind, number>>;
  /** From the request's arrival to the choice's first token at its output process. */
  readonly ttft_us: number | null;
  /** Of the times between its tokens; null with less than two. */
  readonly tpot_us: TokenTimes | null;
  /** From the end of a token's step to its output process: what its thread did meanwhile, beside the next step. Null without a token. */
  readonly delivery_us: TokenTimes | null;
  /** Sums to `ended_us` − the request's `received_us`. */
  readonly breakdown_us: Breakdown;
};

export type RequestLife = {
  /** As it came. */
  readonly request: Address;
  /** Later ones, of those who took it over. */
  readonly moved_to: readonly Address[];
  readonly received_us: number;
  readonly ended_us: number;
  readonly total_us: number;
  readonly ending: Ending;
  readonly error: ErrorRecord | null;
  readonly prompt_tokens: number;
  readonly max_tokens: number;
  readonly tokens: number;
  readonly ttft_us: number | null;
  readonly tpot_us: TokenTimes | null;
  readonly delivery_us: TokenTimes | null;
  /** Along the choice that ended last; sums to `total_us`. */
  readonly critical_choice: number;
  readonly breakdown_us: Breakdown;
  readonly choices: readonly ChoiceLife[];
  /** Longest first. */
  readonly slowest_gaps: readonly TokenGap[];
  /** In order of time; empty unless asked for. */
  readonly events: readonly LifeEvent[];
};

/** Whether the life is that of this request, by any of its names. */
export const isCalled = ({ request, moved_to }: RequestLife, name: Address): boolean => request === name || moved_to.includes(name);

/** Nearest rank: the smallest of them that at least this share does not exceed. */
export function tokenTimes(gaps_us: readonly number[]): TokenTimes | null {
  if (gaps_us.length === 0) return null;
  const sorted = gaps_us.toSorted((a, b) => a - b);
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] as number;
  return { mean: gaps_us.reduce((sum, gap) => sum + gap, 0) / gaps_us.length, p50: rank(0.5), p99: rank(0.99), max: rank(1) };
}
