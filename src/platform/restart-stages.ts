/** In which order workers begin that begin anew all together: decode before prefill (xDeepServe §6). @module */
import type { Hosting } from '../runtime/directory.ts';
import type { Thread } from './worker-life.ts';

/** Stages, one after the other, each with its workers. */
export function restartStages({ workers, worker_of_npu, deployment: { npus, executors } }: Hosting): readonly (readonly number[])[] {
  const decodes = (worker: number): boolean => npus.some(({ id, executor }) => worker_of_npu[id] === worker && executors[executor]?.role !== 'prefill');
  const all = Array.from({ length: workers }, (_, worker) => worker);
  return [all.filter(decodes), all.filter((worker) => !decodes(worker))].filter((stage) => stage.length > 0);
}

/** Whose turn it is, when the last of them has ended; null: it has not, or all have begun. */
export function nextToBegin(inOrder: readonly number[], threads: readonly Thread[]): number | null {
  if (threads.some(({ state, end }) => state === 'lost' && end === 'unknown')) return null;
  return inOrder.find((next) => threads[next]?.state === 'lost') ?? null;
}
