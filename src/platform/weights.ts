/**
 * Weights on their way into the dies of a pod: all of them when it starts, a worker's when its NPUs move.
 * @module
 */
import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { firstMap } from '../flowserve/experts/expert-routing.ts';
import { attentionLayouts } from '../flowserve/layouts/step-layout.ts';
import { layoutOnDie, type PodPlan } from '../flowserve/pod-plan.ts';
import { holdsWeights } from '../flowserve/scale-shapes.ts';
import { WeightLoader } from '../flowserve/weights/load-weights.ts';
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.ts';
import { isLoaded } from '../model/inventory.ts';
import { instantiateKernels } from '../model/kernels/kernels.ts';
import { assert } from '../protocol/errors.ts';
import { executorOfNpu } from '../protocol/topology.ts';

export type ProgressReport = { readonly loaded_bytes: number; readonly total_bytes: number; readonly tensor: string };

/** `onRepeat`: what was read already is read for one more NPU, which adds nothing to progress and is a sign of life. */
export type LoadWatch = { readonly onProgress: (report: ProgressReport) => Promise<void>; readonly onRepeat?: () => void };

/** Progress crosses a thread at about this many points: a callback costs about 85 µs. */
const PROGRESS_STEPS = 40;

/** `mapOf`: where an executor's experts lie now; null: as at first. `holds`: whether an NPU has more than experts. */
export type WeightsNow = { readonly mapOf: (executor: number) => ExpertMap | null; readonly holds: (npu: number) => boolean };

/** Loads NPUs onto dies from the checkpoint: what lay on those that they had cannot be trusted. */
export function furnishDies(
  { plan, folder, space, module }: { readonly plan: PodPlan; readonly folder: string; readonly space: AddressSpace; readonly module: WebAssembly.Module },
  npus: readonly number[],
  dies: readonly number[],
  { mapOf, holds }: WeightsNow,
): PodPlan['layouts'] {
  using checkpoint = openCheckpoint(folder);
  const layouts = npus.map((npu, index) => layoutOnDie(plan, checkpoint, npu, dies[index] as number));
  for (const _ of weightLoader(checkpoint, space, module).load(
    layouts,
    (npu) => mapOf(executorOfNpu(plan.hosting.deployment, npu).id) ?? firstMapOf(plan)(npu),
    holds,
  )) {
    // Nobody waits for its progress.
  }
  for (const { counts } of attentionLayouts(layouts))
    for (const address of counts) if (address !== null) space.bytesAt(address, plan.config.moe.experts * 4).fill(0);
  return layouts;
}

const firstMapOf =
  ({ config, options, hosting }: PodPlan) =>
  (npu: number): ExpertMap =>
    firstMap(config, options, executorOfNpu(hosting.deployment, npu));

function weightLoader(checkpoint: Checkpoint, space: AddressSpace, module: WebAssembly.Module): WeightLoader {
  const kernels = space.memories.map((memory) => instantiateKernels(module, memory));
  return new WeightLoader(checkpoint, space, (segment) => {
    const found = kernels[segment];
    assert(found, `there is no segment ${segment}`);
    return found;
  });
}

/** All NPUs' weights, once for the pod. */
export async function loadWeights(
  checkpoint: Checkpoint,
  plan: PodPlan,
  space: AddressSpace,
  module: WebAssembly.Module,
  { onProgress, onRepeat }: LoadWatch,
): Promise<void> {
  const loader = weightLoader(checkpoint, space, module);
  const total_bytes = checkpoint.parts.reduce((sum, part) => sum + (isLoaded(plan.config, part) ? part.tensor.bytes : 0), 0);
  let loaded_bytes = 0;
  let reported = 0;
  for (const { tensor, bytes } of loader.load(plan.layouts, firstMapOf(plan), (npu) => holdsWeights(plan.hosting, npu))) {
    if (bytes === 0) {
      onRepeat?.();
      continue;
    }
    loaded_bytes += bytes;
    if (loaded_bytes - reported < total_bytes / PROGRESS_STEPS && loaded_bytes < total_bytes) continue;
    reported = loaded_bytes;
    await onProgress({ loaded_bytes, total_bytes, tensor });
  }
}
