/**
 * What a DP group tells whoever leads of how much there is to do in it: when it is asked, when it has got a task, and, if it had no room, when it has again.
 * @module
 */
import { type Address, idOf } from '../../src/protocol/address.ts';
import type { GroupState } from '../../src/protocol/balancing.ts';
import { groupStatus } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { isClosed } from './prefill-leader.ts';
import { type RunningSequence, tokensToLaunch } from './running-sequence.ts';

export type Backlog = Omit<GroupState, 'group'>;

/** `leader`: null: nobody has asked. `owesStatus`: it had no room when it told of itself last. */
type Group = {
  readonly self: Address;
  readonly scheduler: { readonly backlog: Backlog };
  readonly limits: { readonly batch_tokens_max: number };
  readonly leader: Address | null;
  readonly owesStatus: boolean;
};

export function backlogOf(running: Iterable<RunningSequence>, waiting: Iterable<RunningSequence>): Backlog {
  const backlog = { backlog_tokens: 0, longest_tokens: 0, decodes: 0 };
  const add = (tokens: number): void => {
    backlog.backlog_tokens += tokens;
    backlog.longest_tokens = Math.max(backlog.longest_tokens, tokens);
  };
  for (const sequence of running) {
    const tokens = tokensToLaunch(sequence);
    if (tokens <= 1) backlog.decodes++;
    else add(tokens);
  }
  for (const { tokens } of waiting) add(tokens.length);
  return backlog;
}

/** Behind what is told anyhow; `task`: what it has just got. */
export function withStatus(
  { self, scheduler, leader, limits }: Group,
  told: readonly Commands['send'][],
  task: Address | null,
): Pick<Group, 'owesStatus'> & { readonly outbox: readonly Commands['send'][] } {
  if (leader === null) return { owesStatus: false, outbox: told };
  const { backlog } = scheduler;
  const owesStatus = isClosed(backlog.backlog_tokens, limits.batch_tokens_max);
  return { owesStatus, outbox: [...told, { to: leader, message: groupStatus({ group: idOf(self), ...backlog }, task) }] };
}

/** The same, where it had no room, and has now. */
export function withRoomTold(group: Group, told: readonly Commands['send'][]): ReturnType<typeof withStatus> {
  const { owesStatus, scheduler, limits } = group;
  if (!owesStatus || isClosed(scheduler.backlog.backlog_tokens, limits.batch_tokens_max)) return { owesStatus, outbox: told };
  return withStatus(group, told, null);
}
