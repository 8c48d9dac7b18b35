/**
 * Changing the number of NPUs while requests run: what room is kept for it, and what may be asked.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { type Deployment, type Executor, type ExecutorRole, type ExpertsServing, executorOfNpu, formatTopology, type Topology } from '../protocol/topology.ts';
import type { Hosting, Scaled } from '../runtime/directory.ts';

/** Which task executor is meant: its number, or its role where no other one has it. */
export type ExecutorName = number | ExecutorRole;
/** Of each kind so many at most, in one task executor. `attention`: DP groups; `experts`: expert NPUs, where they are apart. What is not named stays as it is. */
export type ScaleMax = { readonly executor?: ExecutorName | undefined; readonly attention?: number | undefined; readonly experts?: number | undefined };
/** Expert NPUs at least; missing: as many as the topology has. Each keeps room for its part of the experts when there are so few. */
export type ScaleMin = { readonly experts?: number | undefined };
/** What a pod is to have from now on; what is not named stays as it is. */
export type ScaleOptions = {
  readonly executor?: ExecutorName | undefined;
  readonly attention?: number | undefined;
  readonly experts?: number | undefined;
  /** A change that takes longer is undone. */
  readonly deadline_ms?: number | undefined;
};

export type Scalable = { readonly topology: Topology; readonly scaled: Scaled | null };

const refuse = (param: string, why: string): never => {
  throw new MinipodError('invalid_request', `${param}: ${why}`, { param });
};

/** The largest shape that it may come to have, for which memory is reserved. @throws `invalid_request` where that is none */
export function largestTopology(topology: Topology, max: ScaleMax | undefined, min: ScaleMin | undefined): Scalable {
  if (max === undefined) {
    if (min !== undefined) refuse('scale_min', 'is for pods that keep room to grow: name scale_max as well');
    return { topology, scaled: null };
  }
  const text = formatTopology(topology);
  const executor = executorNamed(topology, max.executor, 'scale_max');
  const { dp, oproj = 1, split, ...others } = topology[executor] as Topology[number];
  const { attention = dp } = max;
  if (attention < dp) refuse('scale_max', `attention ${attention} is less than topology '${text}' begins with, ${dp} DP groups; name ${dp} or more`);
  const multiple = Math.max(oproj, split?.domains ?? 1);
  if (attention % multiple > 0)
    refuse(
      'scale_max',
      `attention ${attention} is no multiple of ${multiple}, as topology '${text}' needs it for ${split === undefined ? 'oproj' : 'its domains'}`,
    );
  const experts = expertsOf(text, split?.experts, max, min);
  const largest = {
    ...others,
    dp: attention,
    ...(oproj > 1 && { oproj }),
    ...(split !== undefined && { split: { ...split, experts: experts?.npus ?? split.experts } }),
  };
  return {
    topology: topology.map((shape, index) => (index === executor ? largest : shape)),
    scaled: { executor, groups: dp, experts: experts === null ? null : { serving: experts.serving, fewest: experts.fewest } },
  };
}

function expertsOf(
  text: string,
  serving: number | undefined,
  { experts: most }: ScaleMax,
  min: ScaleMin | undefined,
): (Omit<ExpertsServing, 'executor'> & { readonly npus: number }) | null {
  const fewest = min?.experts;
  if (most === undefined && fewest === undefined) return null;
  if (serving === undefined)
    return refuse(
      'scale_max',
      `experts ${most ?? fewest}: topology '${text}' has its experts on the NPUs that have attention; 'moe-attention:domains=1x2,experts=2' has them apart`,
    );
  const [low, high] = [fewest ?? serving, most ?? serving];
  if (high < serving)
    return refuse('scale_max', `experts ${high} is less than topology '${text}' begins with, ${serving} expert NPUs; name ${serving} or more`);
  if (low > serving) return refuse('scale_min', `experts ${low} is more than topology '${text}' begins with, ${serving} expert NPUs; name ${serving} or fewer`);
  return low === high ? null : { serving, fewest: low, npus: high };
}

/** @throws `invalid_request` where it is not clear which one is meant, or there is none */
function executorNamed(topology: Topology, name: ExecutorName | undefined, param: string, whole = `topology '${formatTopology(topology)}'`): number {
  const all = topology.map(({ role }, index) => `${index} (${role})`).join(', ');
  const found = [...topology.keys()].filter((index) => name === undefined || name === index || name === topology[index]?.role);
  if (found.length === 1) return found[0] as number;
  if (found.length === 0) return refuse(param, `${whole} has no task executor ${name}; it has ${all}`);
  return refuse(param, `${whole} has ${found.length} task executors${name === undefined ? '' : ` of role ${name}`}: say which is meant, executor: ${all}`);
}

/** DP groups and expert NPUs. */
export type Shape = { readonly attention: number; readonly experts: number };

/** What is to serve; 0: as many as do. @throws `invalid_request` that says why it cannot be done, and what was reserved */
export function shapeAskedFor(
  options: ScaleOptions,
  { executors, topology }: Deployment,
  scaled: { readonly executor: number; readonly nodes: number } | null,
): Shape {
  if (scaled === null)
    return refuse(
      'scale',
      'the pod keeps no room to change its shape: minipod serve --scale-max attention=N, or createPod({ scale_max: { attention: N } }), reserves memory for up to N DP groups at start',
    );
  const { executor, nodes } = scaled;
  if (options.executor !== undefined && executorNamed(topology, options.executor, 'executor', 'the pod') !== executor)
    return refuse('executor', `the pod keeps room to change task executor ${executor} (${executors[executor]?.role}), not ${options.executor} (scale_max)`);
  const { groups, split, experts: holders } = executors[executor] as Executor;
  const { attention = 0, experts = 0 } = options;
  if (attention > groups.length)
    refuse('attention', `${attention} DP groups are more than the ${groups.length} that memory was reserved for at start (scale_max)`);
  if (experts === 0 || (holders.serving === undefined && experts === holders.npus)) return { attention, experts: 0 };
  if (split === undefined)
    refuse('experts', 'this pod has no expert NPUs: experts lie on the NPUs that have attention, and stay there, also where those stand by');
  const { npus, fewest = npus } = holders;
  if (experts > npus) refuse('experts', `${experts} expert NPUs are more than the ${npus} that memory was reserved for at start (scale_max)`);
  if (experts < fewest)
    refuse(
      'experts',
      `${experts} expert NPUs have no room for all experts: memory was reserved for ${fewest} or more (scale_min; without it, as many as at start)`,
    );
  if (experts % nodes > 0) refuse('experts', `${experts} expert NPUs are not spread evenly over the ${nodes} nodes of expert_balancing`);
  return { attention, experts };
}

/** Whether an NPU has more than experts' weights at first: one that stands by gets them when its group takes part, unless others compute with them meanwhile. */
export const holdsWeights = ({ deployment, scaled }: Hosting, npu: number): boolean =>
  isServing(deployment, scaled ?? null, npu) || !maybeCleared(executorOfNpu(deployment, npu));

/** Nobody needs the weights of its NPUs that stand by. */
export const maybeCleared = ({ oproj = 1 }: Executor): boolean => oproj === 1;

/** Whether the NPU serves at first. */
export function isServing({ npus, executors }: Deployment, scaled: Scaled | null, npu: number): boolean {
  const place = npus[npu];
  if (place === undefined || scaled === null || place.executor !== scaled.executor) return true;
  const { groups, experts } = executors[place.executor] as Executor;
  return place.kind === 'attention' ? groups.indexOf(place.group) < scaled.groups : npu - experts.first < (experts.serving ?? experts.npus);
}
