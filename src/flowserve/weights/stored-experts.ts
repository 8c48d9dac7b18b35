/**
 * Weights of an expert that no NPU has any more, from where the pod's came: its checkpoint.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';
import { openTensors, type StoredTensors } from '../../model/stored-tensors.ts';
import { assert } from '../../protocol/errors.ts';
import type { ExpertNpuLayout } from '../layouts/expert-layout.ts';
import type { NpuLayout } from '../layouts/npu-layout.ts';
import type { DieLayout } from '../layouts/step-layout.ts';
import { WeightLoader } from './load-weights.ts';

/** Where they are to lie: an address in the memory of the NPU that has this layout, where there is room for what that slot of the layer holds. */
export type StoredExpert = { readonly layer: number; readonly expert: number; readonly slot: number; readonly to: number };
/** Goes on by a bounded number of bytes, a tensor's; when it is done they are there. @throws what reading does */
export type ReadExpert = (layout: DieLayout, stored: StoredExpert) => Iterator<unknown>;

/** `close`: nothing is read any more; a thread's end does as well. */
export type StoredExperts = { readonly read: ReadExpert; readonly close: () => void };

/** Opened when it is needed, if it ever is, and then kept open. */
export function storedExperts(folder: string, config: ModelConfig, space: AddressSpace, kernels: readonly Kernels[]): StoredExperts {
  let stored: StoredTensors | null = null;
  const read: ReadExpert = function* (layout, expert) {
    stored ??= openTensors(folder);
    const loader = new WeightLoader({ config, ...stored }, space, (segment) => {
      const found = kernels[segment];
      assert(found, `there is no segment ${segment}`);
      return found;
    });
    yield* loader.loadExpert(layout as NpuLayout | ExpertNpuLayout, expert);
  };
  const close = (): void => {
    stored?.close();
    stored = null;
  };
  return { read, close };
}
