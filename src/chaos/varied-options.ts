/**
 * What a campaign's pods are varied by whatever their kind: every option that has a pod do something else and, alone, changes no promise. Drawn from a stream of its
 * own, so that a seed's shape, calls and faults are what they were before there was another option.
 * @module
 */
import { balancingOf } from '../../actors/policies/placement.ts';
import { largestTopology } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options/options.ts';
import { deploy, firstGroups, formatTopology, isSplit, parseTopology } from '../protocol/topology.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import type { ChaosCall } from './fault-plan.ts';

type Draw = (limit: number) => number;
const pick = <Value>(draw: Draw, ...values: readonly Value[]): Value => values[draw(values.length)] as Value;

/** Prompts of calls are 3 to 40 tokens long: with this some are long, and some are not. */
const LONG_PROMPT_TOKENS = 30;

export function varied(pod: PodOptions, random: SeededRandom): PodOptions {
  const draw: Draw = (limit) => random.below(limit);
  const withShape = { ...pod, ...sharedExpert(pod, draw) };
  return {
    ...withShape,
    ...scheduling(withShape, draw),
    ...caching(withShape, draw),
    ...experts(withShape, draw),
    ...threads(withShape, draw),
    ...arithmetic(withShape, draw),
  };
}

/** Which calls are drafted for, go to a certain DP group, or repeat themselves, so that what is looked up in them is right. */
export function variedCalls(calls: readonly ChaosCall[], { topology, kernels, scale_max }: PodOptions, random: SeededRandom): ChaosCall[] {
  const begins = firstGroups(deploy(parseTopology(topology as string)));
  // Where their number changes the others may stand by.
  const asked = scale_max === undefined ? begins : begins.slice(0, 1);
  return calls.map((call) => ({
    ...call,
    ...(random.below(8) === 0 && { speculative_decoding: false }),
    ...(random.below(8) === 0 && { data_parallel_rank: asked[random.below(asked.length)] as number }),
    ...(random.below(4) === 0 && { top_k: 2 }),
    // The hash model has no logits.
    ...(random.below(4) === 0 && kernels === 'real' && { frequency_penalty: 0.7 }),
  }));
}

/** Each attention NPU has it, in place of some of the expert NPUs. */
function sharedExpert({ topology }: PodOptions, draw: Draw): PodOptions {
  const shape = parseTopology(topology as string);
  if (draw(3) > 0) return {};
  return {
    topology: formatTopology(shape.map((executor) => (executor.split ? { ...executor, split: { ...executor.split, shared: 'attention' } } : executor))),
  };
}

function scheduling({ topology, schedule, micro_batches, load_balancing }: PodOptions, draw: Draw): PodOptions {
  const shape = parseTopology(topology as string);
  const balancing = draw(5) === 0 ? 'cost_model' : (load_balancing ?? 'auto');
  const keeps = shape.some(({ role, dp }) => balancingOf(role, dp, balancing) === 'cost_model' && dp > 1);
  const cuts = isSplit(deploy(shape)) && schedule !== 'domains' && micro_batches === undefined;
  return {
    load_balancing: balancing,
    ...(draw(4) === 0 && { scheduling_policy: 'fcfs' as const }),
    ...(draw(2) === 0 && keeps && { long_prompt_groups: 1, long_prompt_tokens: LONG_PROMPT_TOKENS }),
    ...(draw(3) === 0 && cuts && { micro_batches: 2 as const }),
  };
}

function caching({ topology, prefix_caching = true, prefix_sharing = false, link_bytes_per_s }: PodOptions, draw: Draw): PodOptions {
  const shares = prefix_caching && !prefix_sharing && firstGroups(deploy(parseTopology(topology as string))).length > 1;
  return {
    ...(draw(6) === 0 && { kv_block_size: 32 }),
    ...(draw(3) === 0 && prefix_caching && { dram_blocks: pick(draw, 4, 32), dram_bytes_per_s: pick(draw, 1e7, 1e12) }),
    ...(draw(5) === 0 && shares && { prefix_sharing: true, link_bytes_per_s: link_bytes_per_s ?? 1e12 }),
  };
}

function experts({ expert_balancing, scale_max, topology }: PodOptions, draw: Draw): PodOptions {
  const [policy, threshold] = [pick(draw, 'global' as const, 'fixed_primaries' as const, 'hierarchical' as const), pick(draw, 1, 1, 1.2)];
  if (expert_balancing === undefined || expert_balancing.policy === 'mirrored') return {};
  // Numbers of expert NPUs that change are not always spread evenly over nodes.
  const isEven = scale_max === undefined && deploy(parseTopology(topology as string)).executors.every(({ experts: { npus } }) => npus % 2 === 0);
  return { expert_balancing: { ...expert_balancing, threshold, ...(policy === 'hierarchical' ? isEven && { policy, nodes: 2 } : { policy }) } };
}

/** Any NPU on any worker, each of which has one. */
function threads({ topology, workers = 1, scale_max, scale_min }: PodOptions, draw: Draw): PodOptions {
  if (draw(4) > 0 || workers === 1) return {};
  const { npus } = deploy(largestTopology(parseTopology(topology as string), scale_max, scale_min).topology);
  const first = draw(npus.length);
  return { npu_workers: npus.map((_, npu) => ((npu + first) % npus.length < workers ? (npu + first) % npus.length : draw(workers))) };
}

/** What only the model itself computes, and in which numbers. */
function arithmetic({ kernels }: PodOptions, draw: Draw): PodOptions {
  if (kernels !== 'real') return {};
  return {
    ...(draw(3) === 0 && { enforce_eager: true }),
    ...(draw(3) === 0 && { kv_cache_dtype: 'int8' as const }),
    ...(draw(4) === 0 && { dispatch_dtype: 'int8' as const }),
    ...(draw(4) === 0 && { combine_dtype: 'int8' as const }),
  };
}
