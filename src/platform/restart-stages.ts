/** In which order workers begin that begin anew all together: decode before prefill (xDeepServe §6). @module */
import type { Hosting } from '../runtime/directory.ts';

/** Stages, one after the other, each with its workers. */
export function restartStages({ workers, worker_of_npu, deployment: { npus, executors } }: Hosting): readonly (readonly number[])[] {
  const decodes = (worker: number): boolean => npus.some(({ id, executor }) => worker_of_npu[id] === worker && executors[executor]?.role !== 'prefill');
  const all = Array.from({ length: workers }, (_, worker) => worker);
  return [all.filter(decodes), all.filter((worker) => !decodes(worker))].filter((stage) => stage.length > 0);
}
