/** Where a pod's lives are recorded: each in a file of its own, since a trace is of one. @module */
import { extname } from 'node:path';

/** `run.trace`; of the pod that began in the place of the first one, which is life 2, `run.2.trace`. */
export function fileOfLife(path: string, life: number): string {
  const ending = extname(path);
  return life === 1 ? path : `${path.slice(0, path.length - ending.length)}.${life}${ending}`;
}
