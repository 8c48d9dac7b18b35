/**
 * A2E and E2A: dispatch and combine between attention ranks and expert ranks that are different dies and unequal in number (xDeepServe §3.3).
 *
 * Two forms behind one interface, with equal bits: `naive` (naive-fan-out.ts) takes any numbers, `trampoline` (trampoline.ts) no more attention ranks than
 * expert ranks. Each rank of the domain makes its end, all with the same form.
 * @module
 */
import type { AttentionEnd, AttentionOptions, EndOptions, ExpertEnd, ExpertOptions } from './ends.ts';
import { ONLY_LANE } from './lane.ts';
import { Membership } from './membership.ts';
import { FanOutExpert, FanOutSource } from './naive-fan-out.ts';
import type { StepNames } from './rounds.ts';
import { TrampolineAttention, TrampolineExpert } from './trampoline.ts';

export const A2E_FORMS = ['naive', 'trampoline'] as const;
export type A2EForm = (typeof A2E_FORMS)[number];

/** The domain's ranks: `attention` attention ranks, then the expert ranks. */
export type A2EOptions = { readonly form: A2EForm; readonly attention: number };

const NAMES: StepNames = { dispatch: 'A2E', combine: 'E2A' };

const fanOutOf = ({ attention, domain, lane = ONLY_LANE }: A2EOptions & EndOptions) => {
  const ranks = domain.dies.map((_, rank) => rank);
  return { sources: ranks.slice(0, attention), experts: ranks.slice(attention), names: NAMES, lane };
};
const splitOf = ({ attention, domain, lane = ONLY_LANE }: A2EOptions & EndOptions) => ({
  attention,
  experts: domain.dies.length - attention,
  names: NAMES,
  lane,
});

/** @throws `invalid_request` naming both numbers, if there are too few expert ranks for the form. */
export function createAttentionEnd(options: A2EOptions & AttentionOptions): AttentionEnd {
  const membership = new Membership(options.endpoint, options.domain);
  return options.form === 'naive' ? new FanOutSource(membership, options, fanOutOf(options)) : new TrampolineAttention(membership, options, splitOf(options));
}

/** @throws `invalid_request` naming both numbers, if there are too few expert ranks for the form. */
export function createExpertEnd(options: A2EOptions & ExpertOptions): ExpertEnd {
  const membership = new Membership(options.endpoint, options.domain);
  return options.form === 'naive' ? new FanOutExpert(membership, options, fanOutOf(options)) : new TrampolineExpert(membership, options, splitOf(options));
}
