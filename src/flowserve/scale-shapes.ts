/**
 * Changing the number of NPUs while requests run: what room is kept for it, and what may be asked.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { type Deployment, formatTopology, type Topology } from '../protocol/topology.ts';

/** Of each kind so many at most. `attention`: DP groups. */
export type ScaleMax = { readonly attention: number };
/** What a pod is to have from now on; what is not named stays as it is. `experts`: expert NPUs, where they are apart. */
export type ScaleOptions = { readonly attention?: number | undefined; readonly experts?: number | undefined };

const refuse = (param: string, why: string): never => {
  throw new MinipodError('invalid_request', `${param}: ${why}`, { param });
};

/** The largest shape that it may come to have, for which memory is reserved. @throws `invalid_request` where that is none */
export function largestTopology(topology: Topology, { attention }: ScaleMax): Topology {
  const [only, ...others] = topology;
  const text = formatTopology(topology);
  if (only === undefined || others.length > 0)
    return refuse('scale_max', `is for pods of one task executor, and topology '${text}' has ${topology.length}; 'colocated:dp=2' has one`);
  const { dp, oproj = 1, split } = only;
  if (attention < dp) refuse('scale_max', `attention ${attention} is less than topology '${text}' begins with, ${dp} DP groups; name ${dp} or more`);
  const multiple = Math.max(oproj, split?.domains ?? 1);
  if (attention % multiple > 0)
    refuse(
      'scale_max',
      `attention ${attention} is no multiple of ${multiple}, as topology '${text}' needs it for ${split === undefined ? 'oproj' : 'its domains'}`,
    );
  return [{ ...only, dp: attention }];
}

/** The number of DP groups that are to serve. @throws `invalid_request` that says why it cannot be done, and what was reserved */
export function groupsAskedFor(options: ScaleOptions, { executors }: Deployment, serving: number | null): number {
  const [only] = executors;
  const { attention, experts } = options;
  if (serving === null || only === undefined)
    return refuse('scale', 'the pod keeps no room to change its shape; createPod({ scale_max: { attention: N } }) reserves memory for up to N DP groups');
  if (experts !== undefined && (only.split === undefined || experts !== only.experts.npus))
    refuse(
      'experts',
      only.split === undefined
        ? 'this pod has no expert NPUs: experts lie on the NPUs that have attention, and stay there, also where those stand by'
        : `${experts} of ${only.experts.npus} expert NPUs: their number does not change at run time yet, only that of attention NPUs`,
    );
  if (attention !== undefined && attention > only.groups.length)
    refuse('attention', `${attention} DP groups are more than the ${only.groups.length} that memory was reserved for at start (scale_max)`);
  return attention ?? serving;
}
