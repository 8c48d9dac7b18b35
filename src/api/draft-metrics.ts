/** vLLM's metrics of speculative decoding, in pods that draft. @module */
import { Counter, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

/** Takes over what a pod has counted; before the first that drafts there are none of these. */
export function draftMetrics(registry: Registry): (stats: PodStats) => void {
  let counters: ReturnType<typeof makeCounters> | null = null;
  return ({ dp_groups }) => {
    if (counters === null && dp_groups.every(({ drafting }) => drafting.accepted_at.length === 0)) return;
    counters ??= makeCounters(registry);
    const { drafts, draftTokens, accepted, acceptedAt } = counters;
    for (const counter of Object.values(counters)) counter.reset();
    for (const { dp_group, drafting } of dp_groups) {
      const engine = String(dp_group);
      drafts.inc({ engine }, drafting.drafts);
      draftTokens.inc({ engine }, drafting.draft_tokens);
      accepted.inc({ engine }, drafting.accepted_tokens);
      for (const [position, count] of drafting.accepted_at.entries()) acceptedAt.inc({ engine, position }, count);
    }
  };
}

function makeCounters(registry: Registry) {
  const registers = [registry];
  const counter = (name: string, help: string) => new Counter({ name: `vllm:spec_decode_${name}_total`, help, labelNames: ['engine'], registers });
  return {
    drafts: counter('num_drafts', 'Times that a step verified drafts for a request.'),
    draftTokens: counter('num_draft_tokens', 'Draft tokens that were verified.'),
    accepted: counter('num_accepted_tokens', 'Draft tokens that the model drew itself.'),
    acceptedAt: new Counter({
      name: 'vllm:spec_decode_num_accepted_tokens_per_pos_total',
      help: 'The same by their place among the drafts of a request.',
      labelNames: ['engine', 'position'],
      registers,
    }),
  };
}
