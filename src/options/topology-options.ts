/** How a pod's options lay its work out. @module */

import { MinipodError } from '../protocol/errors.ts';
import { checkTopology, colocated, formatTopology, npusOfShape, parseTopology, type Topology } from '../protocol/topology.ts';
import { LIMITS, type ResolvedPodOptions } from './options.ts';

/** @throws `invalid_request` for a topology that cannot be read, is too large, or contradicts `npus` or `data_parallel_size` */
export function topologyOf({ topology, npus, data_parallel_size }: Pick<ResolvedPodOptions, 'topology' | 'npus' | 'data_parallel_size'>): Topology {
  if (topology === undefined && npus === undefined) return colocated(data_parallel_size ?? 1);
  const executors = topology === undefined ? colocated(npus ?? 1) : typeof topology === 'string' ? parseTopology(topology) : topology;
  checkTopology(executors);
  const count = executors.reduce((sum, shape) => sum + npusOfShape(shape), 0);
  const groups = executors.reduce((sum, { dp }) => sum + dp, 0);
  const wrong = (has: string, why: string, param = 'topology'): MinipodError =>
    new MinipodError('invalid_request', `${param}: '${formatTopology(executors)}' has ${has}, ${why}`, { param });
  if (npus !== undefined && npus !== count) throw wrong(`${count} NPUs`, `npus says ${npus}: leave it out`);
  if (data_parallel_size !== undefined && data_parallel_size !== groups)
    throw wrong(`${groups} DP groups`, `not ${data_parallel_size}: leave it out`, 'data_parallel_size');
  if (count > LIMITS.npus_max) throw wrong(`${count} NPUs`, `at most ${LIMITS.npus_max} are possible`);
  return executors;
}
