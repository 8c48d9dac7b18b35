/**
 * Which DP group leads the others of its task executor, where tasks wait for a group in one queue (prefill-leader.ts): the first that serves, until it does not.
 * @module
 */
import { type Address, address } from '../../src/protocol/address.ts';
import type { LongPrompts, StepSample } from '../../src/protocol/balancing.ts';
import { groupWanted, lead } from '../../src/protocol/constructors.ts';
import type { Commands, DpGroupMessage } from '../../src/protocol/messages.ts';
import type { TaskPlacement } from './placement.ts';
import { fitStepCost } from './step-cost.ts';

/** `leader`: −1: none. `term`: how often another has come to lead. `samples`: of all NPUs, as they warmed up. */
type Led = {
  readonly self: Address;
  readonly placement: TaskPlacement;
  readonly hasLeader: boolean;
  readonly leader: number;
  readonly term: number;
  readonly samples: readonly StepSample[];
  readonly long: LongPrompts;
};

export const tellLeader = ({ leader }: Pick<Led, 'leader'>, messages: readonly DpGroupMessage[]): Commands['send'][] =>
  leader < 0 ? [] : messages.map((message) => ({ to: address('dp-group', leader), message }));

/** Tells whoever leads which groups serve now; who has just come to lead, also which tasks wait. */
export function leading({ self, placement, hasLeader, leader, term: last, samples, long }: Led): Pick<Led, 'leader' | 'term'> & {
  readonly sends: readonly Commands['send'][];
} {
  const { serving, unchosen } = placement;
  if (!hasLeader) return { leader: -1, term: last, sends: [] };
  const next = serving.includes(leader) ? leader : (serving[0] ?? -1);
  const term = next === leader ? last : last + 1;
  const cost = fitStepCost(samples);
  // If it lives still.
  const resign = leader < 0 || next === leader ? [] : [{ to: address('dp-group', leader), message: lead(self, term, [], cost, long) }];
  if (next < 0) return { leader: -1, term, sends: resign };
  const to = address('dp-group', next);
  const wanted = next === leader ? [] : unchosen.map((one) => ({ to, message: groupWanted(one) }));
  return { leader: next, term, sends: [...resign, { to, message: lead(self, term, serving, cost, long) }, ...wanted] };
}
