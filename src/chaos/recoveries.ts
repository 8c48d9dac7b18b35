/**
 * How a pod goes on when somebody is lost. Seeds choose among these as they do among topologies, so that each is tried with each fault that may cost a worker.
 * @module
 */
import type { PodOptions } from '../options/options.ts';
import { deploy, parseTopology } from '../protocol/topology.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import type { FaultKind, Phase } from './fault-plan.ts';

export const RECOVERIES = ['successors', 'restart', 'rehomed', 'no-successors', 'role-switch', 'degraded'] as const;
export type Recovery = (typeof RECOVERIES)[number];

/** Of these a worker may end, or begin anew: what comes then is the recovery's. All others are over by themselves, or mended without anybody's end. */
export const ENDING: readonly FaultKind[] = [
  ...(['worker-lost', 'zombie-writes', 'expert-lost', 'worker-hangs', 'npu-hangs', 'dp-group-hangs', 'job-executor-hangs', 'weights-bit-flip'] as const),
  ...(['npu-crashes', 'dp-group-crashes', 'job-executor-crashes', 'cluster-manager-crashes'] as const),
];

type Terms = {
  readonly what: string;
  /** Phases that its pods do not have, and why. */
  readonly not_at?: { readonly phases: readonly Phase[]; readonly why: string };
};
export const RECOVERY_TERMS: Readonly<Record<Recovery, Terms>> = {
  successors: { what: 'each lost worker has a successor' },
  restart: { what: 'all workers begin anew with a lost one' },
  rehomed: {
    what: 'experts of a lost NPU are loaded elsewhere before its successor comes, and go back to it',
    not_at: { phases: ['kv-transfer'], why: 'executors that hand KV over keep their experts where they are' },
  },
  'no-successors': {
    what: 'nobody follows a lost worker: those that are left go on, with its experts where there is room, or with an attention NPU in its role',
  },
  'role-switch': {
    what: 'nobody follows, there is no room, and the last attention NPU that can be spared takes the role of a lost expert NPU',
    not_at: { phases: ['kv-transfer', 'scaling'], why: 'its pods hand no KV over, and stay as large as they are' },
  },
  degraded: { what: 'nobody follows, and its experts are done without' },
};

export const recoveryOf = ({ recovery, respawn, degraded, rehome_after_ms, role_switch = 'never' }: PodOptions): Recovery => {
  if (role_switch !== 'never') return 'role-switch';
  if (degraded === true) return 'degraded';
  if (respawn === false) return 'no-successors';
  if (recovery === 'restart') return 'restart';
  return rehome_after_ms === undefined ? 'successors' : 'rehomed';
};

export const isTriedAt = (recovery: Recovery, phase: Phase | 'time' | 'client'): boolean =>
  !(RECOVERY_TERMS[recovery].not_at?.phases ?? []).some((other) => other === phase);

/** What is drawn where no cell wants one, as often as it stands here. */
const DRAWN: readonly Recovery[] = [
  ...(['successors', 'successors', 'successors', 'restart', 'restart', 'rehomed', 'rehomed', 'rehomed'] as const),
  ...(['no-successors', 'no-successors', 'role-switch', 'degraded'] as const),
];

/** Of those that are asked for; what everybody does, where none of them is tried at the phase. */
export function drawRecovery(phase: Phase | 'time' | 'client', asked: readonly Recovery[], random: SeededRandom): Recovery {
  const tried = DRAWN.filter((recovery) => asked.includes(recovery) && isTriedAt(recovery, phase));
  return tried[random.below(Math.max(1, tried.length))] ?? 'successors';
}

/** Of each layer of the model that pods have. */
const EXPERTS = 32;

/** Experts on NPUs of their own, each NPU on a worker of its own, and some attention NPU that can be spared. */
function hasApart({ topology, workers, schedule, scale_max }: PodOptions): boolean {
  const { executors, npus } = deploy(parseTopology(topology as string));
  return (
    executors.every(({ split, groups }) => split !== undefined && groups.length > 1) &&
    workers === npus.length &&
    schedule !== 'domains' &&
    scale_max === undefined
  );
}

/** The pod, with the recovery. Null: it is no pod for that. */
export function withRecovery({ recovery: _, ...pod }: PodOptions, recovery: Recovery, random: SeededRandom): PodOptions | null {
  const { expert_balancing, scale_max, workers = 1, topology } = pod;
  if (recovery === 'successors') return pod;
  if (workers === 1) return null;
  /** Room for all experts on one NPU less, or as little as there is. */
  const room = (): PodOptions =>
    random.below(2) === 0 && expert_balancing !== undefined ? { expert_balancing: { ...expert_balancing, redundant_slots: EXPERTS } } : {};
  switch (recovery) {
    case 'restart':
      return { ...pod, recovery };
    case 'rehomed': {
      if (expert_balancing === undefined && scale_max?.experts === undefined) return null;
      // Shorter than any successor takes (virtual-workers.ts: 30 ms).
      return { ...pod, rehome_after_ms: 1 + random.below(12), ...room() };
    }
    case 'no-successors':
      return { ...pod, respawn: false, ...room() };
    case 'role-switch':
      // Mostly as the papers have it.
      return hasApart(pod) ? { ...pod, respawn: false, role_switch: random.below(4) === 0 ? 'background' : 'auto' } : null;
    case 'degraded': {
      // Drafts change what a step computes, and are judged; campaigns have yet to try thousands of these.
      const { speculative_config: __, hash_foreseeable: ___, ...others } = pod;
      return `${topology}`.includes('oproj') ? null : { ...others, respawn: false, degraded: true };
    }
  }
}
