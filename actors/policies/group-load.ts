/**
 * How much there is to do in a DP group, as its leader wants to know it.
 * @module
 */
import type { GroupState } from '../../src/protocol/balancing.ts';
import { type RunningSequence, tokensToLaunch } from './running-sequence.ts';

export type GroupLoad = Omit<GroupState, 'group'>;

export function groupLoad(running: Iterable<RunningSequence>, waiting: Iterable<RunningSequence>): GroupLoad {
  const load = { backlog_tokens: 0, longest_tokens: 0, decodes: 0 };
  const add = (tokens: number): void => {
    load.backlog_tokens += tokens;
    load.longest_tokens = Math.max(load.longest_tokens, tokens);
  };
  for (const sequence of running) {
    const tokens = tokensToLaunch(sequence);
    if (tokens <= 1) load.decodes++;
    else add(tokens);
  }
  for (const { tokens } of waiting) add(tokens.length);
  return load;
}
