/** What the chaos commands draw from, and how they end. @module */
import type { Scope, Verdict } from '../chaos/index.ts';

export const EXIT_CODES: Readonly<Record<Verdict, number>> = { held: 0, 'lost progress': 3, crash: 4, 'wrong result': 5 };

export type ScopeFlags = { readonly topology?: string[]; readonly faults?: string[]; readonly json?: true };

export const scopeOf = ({ topology, faults }: ScopeFlags): Scope => ({ topologies: topology, faults });

/** What repeats a seed of this scope. */
export function commandOf(seed: number, { topologies, faults }: Scope): string {
  const scope = [...(topologies === undefined ? [] : ['--topology', topologies.join(',')]), ...(faults === undefined ? [] : ['--faults', faults.join(',')])];
  return ['minipod chaos run', seed, ...scope].join(' ');
}
