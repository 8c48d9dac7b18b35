/**
 * What task executors and their DP groups tell one another about where tasks go.
 * @module
 */
import type { Address } from './address.ts';

/** A step that was measured. `attended`: over all of its tokens, their positions, themselves included. */
export type StepSample = { readonly tokens: number; readonly attended: number; readonly us: number };
/** µs of a step = base + token × tokens + attended × attended. */
export type StepCost = { readonly base_us: number; readonly token_us: number; readonly attended_us: number };

/** A task without a DP group; `marks`: of its prompt's prefixes (actors/policies/prefix-marks.ts). */
export type Wanted = { readonly task: Address; readonly prompt_tokens: number; readonly marks: readonly number[]; readonly priority: number };

/** `backlog_tokens`: prompt tokens of those who run or wait in a group that are still to be computed; `longest_tokens`: most of one; `decodes`: sequences beyond. */
export type GroupState = { readonly group: number; readonly backlog_tokens: number; readonly longest_tokens: number; readonly decodes: number };

/** Which prompts have groups of their own: of so many tokens or more, the last so many groups. */
export type LongPrompts = { readonly tokens: number; readonly groups: number };

/** To a DP group, where one of them chooses for all. */
export type LeaderMessage =
  /** Be the leader of these groups, or go on as it: those that serve now. `term`: how often another has come to lead. */
  | {
      readonly type: 'LEAD';
      readonly task_executor: Address;
      readonly term: number;
      readonly groups: readonly number[];
      readonly cost: StepCost;
      readonly long: LongPrompts;
    }
  /** To the leader: a task has no group; needs none any more. */
  | { readonly type: 'GROUP_WANTED'; readonly wanted: Wanted }
  | { readonly type: 'GROUP_UNWANTED'; readonly task: Address }
  /** From the leader, while tasks wait. */
  | { readonly type: 'STATUS_WANTED'; readonly leader: Address; readonly term: number }
  /** To the leader: since it has asked, since the group has room again, or since it has got `task`. */
  | { readonly type: 'GROUP_STATUS'; readonly state: GroupState; readonly task: Address | null };
