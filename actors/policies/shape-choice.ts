/**
 * Which DP groups and which expert NPUs are to serve when their number changes: so many of those that are left, first those that serve already.
 *
 *   all 0 1 2 3    serving 0 1    1 is lost, and nobody takes its place      1 → 0    2 → 0 2    3 → 0 2 3    4: there are only 3
 * @module
 */
import type { ErrorRecord } from '../../src/protocol/errors.ts';

/** DP groups; NPUs that have the experts, 0: they are not apart, or stay where they are. */
export type Counts = { readonly attention: number; readonly experts: number };
/** `holders`: null: experts stay where they are. */
export type Shape = { readonly groups: readonly number[]; readonly holders: readonly number[] | null };

export type Serving = {
  /** DP groups: all that there are, in the order in which they come to serve; those that are to serve; and those that are lost, in whose place nobody comes. */
  readonly groups: readonly number[];
  readonly serving: readonly number[];
  readonly gone: readonly number[];
  /** The same of NPUs that may have experts, or do. */
  readonly expert_npus: readonly number[];
  readonly holders: readonly number[];
  readonly gone_holders: readonly number[];
  /** Groups that stand by have no weights; false: others compute with theirs. */
  readonly clears: boolean;
};

export const without = (all: readonly number[], others: readonly number[]): number[] => all.filter((one) => !others.includes(one));

export const countsOf = ({ serving, gone, holders, gone_holders }: Omit<Serving, 'clears'>): Counts => ({
  attention: without(serving, gone).length,
  experts: without(holders, gone_holders).length,
});

/** In the order of all; fewer than are wanted where fewer are left. */
export function chosen(all: readonly number[], serving: readonly number[], gone: readonly number[], count: number): number[] {
  const left = without(all, gone);
  const first = left.filter((one) => serving.includes(one));
  const wanted = [...first, ...without(left, first)].slice(0, count);
  return left.filter((one) => wanted.includes(one));
}

/** What is to serve, 0: as many as do; and why it cannot. */
export function wishOf(now: Serving, asked: Counts): { readonly shape: Shape; readonly error: ErrorRecord | null } {
  const { groups, serving, gone, holders, gone_holders, expert_npus, clears } = now;
  const counts = countsOf(now);
  const attention = asked.attention || counts.attention;
  const experts = asked.experts || counts.experts;
  const shape: Shape = {
    groups: attention === counts.attention ? serving : chosen(groups, serving, gone, attention),
    holders: experts === counts.experts ? null : chosen(expert_npus, holders, gone_holders, experts),
  };
  if (attention > groups.length - gone.length) return { shape, error: wrong('attention', tooMany('DP group', attention, groups, gone)) };
  if (shape.holders !== null && experts > shape.holders.length)
    return { shape, error: wrong('experts', tooMany('expert NPU', experts, expert_npus, gone_holders)) };
  if (clears && counts.attention === 0 && attention > 0)
    return { shape, error: wrong('attention', 'no DP group is left from which others could have their weights') };
  return { shape, error: null };
}

const wrong = (param: string, why: string): ErrorRecord => ({ code: 'invalid_request', message: `${param}: ${why}`, param });
const some = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;

function tooMany(what: 'DP group' | 'expert NPU', count: number, all: readonly number[], gone: readonly number[]): string {
  const [s, is] = gone.length === 1 ? ['', 'is'] : ['s', 'are'];
  return `${some(count, what)} are more than the ${all.length - gone.length} that are left of ${all.length}: ${what}${s} ${gone.join(', ')} ${is} lost, and nobody takes the place`;
}

const textOf = ({ attention, experts }: Counts): string => `${some(attention, 'DP group')}${experts > 0 ? ` and ${some(experts, 'expert NPU')}` : ''}`;

/** Why a change is undone; `param`: what was at fault. */
export type Failure = { readonly code: ErrorRecord['code']; readonly why: string; readonly param: string | null };

/** What is to become what. */
export const wayOf = (was: Counts, { groups, holders }: Shape): string =>
  `from ${textOf(was)} to ${textOf({ attention: groups.length, experts: holders?.length ?? was.experts })}`;

/** What became of a change. */
export function errorOf(was: Counts, wanted: Shape, now: Counts, failure: Failure | null): ErrorRecord | null {
  if (failure === null) return null;
  const isSame = was.attention === now.attention && was.experts === now.experts;
  const message = `scale: ${wayOf(was, wanted)} ${failure.why}; ${textOf(now)} serve${isSame ? ', as before' : ''}`;
  return { code: failure.code, message, param: failure.param };
}
