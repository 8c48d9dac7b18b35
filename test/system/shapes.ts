/** What a pod's shape looks like from outside. @module */
import type { Pod } from '../../src/index.ts';

/** How many NPUs have experts in their slots, in the executor that has the others too. */
export async function holders(pod: Pod): Promise<number> {
  const { task_executors } = await pod.experts({ measure: false });
  return new Set(task_executors.at(-1)?.layers.flatMap(({ experts }) => experts.flatMap(({ replicas }) => replicas.map(({ npu }) => npu)))).size;
}

/** Bytes. */
export const weightsHeld = async (pod: Pod): Promise<number> => (await pod.stats()).scaling?.weights.held_bytes ?? -1;
