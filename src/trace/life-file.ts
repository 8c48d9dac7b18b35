/** Where a pod's lives are recorded: each in a file of its own, since a trace is of one. @module */
import { existsSync } from 'node:fs';
import { extname } from 'node:path';

/** Of the run's acts, and of which experts each token goes to. Missing: nobody records them. */
export type RunFiles = { readonly record?: string | undefined; readonly record_routing?: string | undefined };

export const NOT_RECORDED: RunFiles = { record: undefined, record_routing: undefined };

/** Of the pod that began in the place of the first one, which is life 2, `run.2.trace`. Another run may have left some: none is replaced. */
export function filesOfLife({ record, record_routing }: RunFiles, life: number): RunFiles {
  const file = (path: string | undefined): string | undefined => (path === undefined ? undefined : freeFile(path, life));
  return { record: file(record), record_routing: file(record_routing) };
}

function freeFile(path: string, life: number): string {
  const ending = extname(path);
  for (let number = life; ; number++) {
    const file = `${path.slice(0, path.length - ending.length)}.${number}${ending}`;
    if (!existsSync(file)) return file;
  }
}
