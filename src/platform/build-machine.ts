/**
 * The model that a machine computes (machine.ts): the plan and the memory of a pod on one thread, and the arithmetic of its NPUs.
 * @module
 */
import { segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { allocateSegments } from '../fabric/memory-plan.ts';
import { ExpertForward } from '../flowserve/forward/expert-forward.ts';
import { Forward } from '../flowserve/forward/forward.ts';
import { HashExperts } from '../flowserve/hash-model/hash-experts.ts';
import { HashForward } from '../flowserve/hash-model/hash-forward.ts';
import { type HashPodPlan, loadHashWeights, planHashPod, storedHashExperts } from '../flowserve/hash-model/hash-layout.ts';
import type { NpusOptions } from '../flowserve/npus.ts';
import { type AnyPodPlan, type PlanOptions, type PodPlan, planPod } from '../flowserve/pod-plan.ts';
import { type ReadExpert, storedExperts } from '../flowserve/weights/stored-experts.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { instantiateKernels, type Kernels, loadKernelModule } from '../model/kernels/kernels.ts';
import { executorOfNpu } from '../protocol/topology.ts';
import { furnishDies, loadWeights, type ProgressReport, type WeightsNow } from './weights.ts';

/** The model, however it is computed: a plan, its memory, and each NPU's arithmetic, which a successor of the NPU gets anew. */
export type Machine = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly arithmeticOf: (npu: number) => NpusOptions['arithmetics'][number];
  readonly readExpert: ReadExpert;
  /** Loads the weights of NPUs anew. */
  readonly furnish: (npus: readonly number[], now: WeightsNow) => void;
  /** Nobody computes with it any more. */
  readonly close: () => void;
};

export type OnProgress = (report: ProgressReport) => Promise<void>;

/** Weights of the hash model have a version, of which there is one. */
const WEIGHT_VERSION = 1;
/** Without rings: nobody else computes. @throws as `planPod` does */
export async function buildMachine(checkpoint: Checkpoint, kernels: 'real' | 'hash', options: PlanOptions, onProgress: OnProgress): Promise<Machine> {
  const alone = { ...options, has_rings: false };
  return kernels === 'hash' ? hashMachine(checkpoint, alone) : realMachine(checkpoint, alone, onProgress);
}

async function realMachine(checkpoint: Checkpoint, options: PlanOptions, onProgress: OnProgress): Promise<Machine> {
  const module = await loadKernelModule();
  const plan = planPod(checkpoint, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  await loadWeights(checkpoint, plan, space, module, { onProgress });
  const kernels = space.memories.map((memory) => instantiateKernels(module, memory));
  const arithmeticOf = (npu: number): NpusOptions['arithmetics'][number] => {
    const layout = plan.layouts[npu] as PodPlan['layouts'][number];
    const kernelsOfSegment = kernels[segmentOf(layout.base)] as Kernels;
    return layout.kind === 'attention'
      ? new Forward(plan.config, layout, kernelsOfSegment)
      : new ExpertForward(plan.config, layout, layout.layers, kernelsOfSegment);
  };
  const furnish: Machine['furnish'] = (npus, now) => void furnishDies({ plan, folder: checkpoint.folder, space, module }, npus, npus, now);
  const { read, close } = storedExperts(checkpoint.folder, checkpoint.config, space, kernels);
  return { plan, space, arithmeticOf, readExpert: read, furnish, close };
}

function hashMachine({ config }: Checkpoint, options: PlanOptions): Machine {
  const plan = planHashPod({ ...config, ...(options.hash_foreseeable !== undefined && { foreseeable: options.hash_foreseeable }) }, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  for (const layout of plan.layouts) loadHashWeights(plan, layout, space, WEIGHT_VERSION);
  const arithmeticOf = (npu: number): NpusOptions['arithmetics'][number] => {
    const layout = plan.layouts[npu] as HashPodPlan['layouts'][number];
    return layout.kind === 'attention' ? new HashForward(plan.config, layout, space) : new HashExperts(plan.config, layout, space);
  };
  const furnish: Machine['furnish'] = (npus, { mapOf, holds }) => {
    for (const npu of npus) {
      const map = mapOf(executorOfNpu(plan.hosting.deployment, npu).id) ?? undefined;
      loadHashWeights(plan, plan.layouts[npu] as HashPodPlan['layouts'][number], space, WEIGHT_VERSION, map, holds(npu));
    }
  };
  return { plan, space, arithmeticOf, readExpert: storedHashExperts(space, WEIGHT_VERSION), furnish, close: () => {} };
}
