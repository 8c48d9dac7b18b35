/** What the chaos commands draw from, and how they end. @module */
import type { Scope, Verdict } from '../chaos/index.ts';

export const EXIT_CODES: Readonly<Record<Verdict, number>> = { held: 0, 'lost progress': 3, crash: 4, 'wrong result': 5 };

export type ScopeFlags = {
  readonly topology?: string[];
  readonly faults?: string[];
  readonly recoveries?: string[];
  readonly realKernels?: number;
  readonly json?: true;
};

export const scopeOf = ({ topology, faults, recoveries, realKernels }: ScopeFlags): Scope => ({
  ...{ topologies: topology, faults, recoveries, real_kernels: realKernels },
});

/** What repeats a seed of this scope. */
export function commandOf(seed: number, { topologies, faults, recoveries, real_kernels }: Scope): string {
  const scope = [
    ...(topologies === undefined ? [] : ['--topology', topologies.join(',')]),
    ...(faults === undefined ? [] : ['--faults', faults.join(',')]),
    ...(recoveries === undefined ? [] : ['--recoveries', recoveries.join(',')]),
    ...(real_kernels === undefined ? [] : ['--real-kernels', real_kernels]),
  ];
  return ['minipod chaos run', seed, ...scope].join(' ');
}
