/**
 * Pods whose shape changes while they run, each from a seed: for the campaign of same bits.
 * @module
 */
import type { Pod, PodOptions } from '../src/index.ts';

type Below = (limit: number) => number;
/** When another stream has so many tokens. */
export type ShapeChange = { readonly after: number; readonly attention: number; readonly experts?: number };
export type ChangingPod = { readonly pod: PodOptions; readonly changes: readonly ShapeChange[] };

const pick = <Value>(below: Below, ...values: readonly Value[]): Value => values[below(values.length)] as Value;

/** `others`: what has nothing to do with the topology. */
export function changingPod(below: Below, others: PodOptions, isLive: boolean): ChangingPod {
  const [groups, experts] = [1 + below(2), 2 + below(2)];
  const [attention_max, experts_max] = [groups + 1 + below(2), experts + below(3)];
  const fewest = 1 + below(experts);
  const kind = below(4);
  const sizes = `domains1x${groups}experts${experts}`;
  const apart = { scale_max: { attention: attention_max, experts: experts_max }, scale_min: { experts: fewest } };
  const shapes: readonly PodOptions[] = [
    { topology: `colocated:dp=${groups}`, scale_max: { attention: attention_max } },
    { topology: `pd:prefill=1xdp${groups},decode=1`, scale_max: { executor: 'prefill', attention: attention_max } },
    { topology: `moe-attention:domains=1x${groups},experts=${experts}`, ...apart },
    { topology: `pd:prefill=1,decode=1x${sizes}`, ...apart, scale_max: { executor: 'decode', ...apart.scale_max } },
  ];
  const hasExperts = kind >= 2;
  const balancing =
    hasExperts && below(3) === 0
      ? { expert_balancing: { redundant_slots: 4, period_ms: isLive ? 50 : 10, policy: pick<'global' | 'native'>(below, 'global', 'native') } }
      : {};
  const changes = Array.from({ length: 1 + below(6) }, () => ({
    after: 1 + below(16),
    attention: 1 + below(attention_max),
    ...(hasExperts && { experts: fewest + below(experts_max - fewest + 1) }),
  }));
  // Last, so that a seed's other draws are what they were.
  const turns: PodOptions = hasExperts ? { schedule: pick<'dataflow' | 'domains'>(below, 'dataflow', 'domains') } : {};
  return { pod: { ...others, ...(shapes[kind] as PodOptions), ...balancing, ...turns, ...(isLive && { workers: 2 }) }, changes };
}

/** One after the other, each of which must come about. */
export async function changeShape(pod: Pod, changes: readonly ShapeChange[]): Promise<void> {
  for (const { after, ...shape } of changes) {
    let seen = 0;
    for await (const _ of pod.generate([3, 5, 7], { max_tokens: after, ignore_eos: true })) if (++seen >= after) break;
    await pod.scale(shape);
  }
}
