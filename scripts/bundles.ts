/**
 * Puts what a thread or the command loads, some 230 and 400 modules, into one file each: most of a thread's start is finding them. By measurement (CPU time,
 * Node 24) a thread that loads 228 modules takes 155 ms, as one file 50; `createPod` with one worker 600 and 370.
 *
 * @module
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';

/** What threads and the command begin with: `src/…`, without its ending. */
export const ENTRIES = [
  'src/cli/main',
  'src/platform/control-thread',
  'src/platform/npu-worker-thread',
  'src/platform/network-card-thread',
  'src/trace/recorder-thread',
  'src/chaos/campaign-thread',
  'src/chaos/live-worker-thread',
] as const;

/** Bundles each entry of a clone into a file of `target`, and says which. Each module goes on finding what lies beside it. */
export async function bundleEntries(root: string, entries: readonly string[], target: string): Promise<ReadonlyMap<string, string>> {
  const bundled = await Promise.all(
    entries.map(async (entry): Promise<[string, string]> => {
      const bundle = await rolldown({
        input: join(root, `${entry}.ts`),
        platform: 'node',
        plugins: [
          {
            name: 'where a module lies',
            transform: (code, id) => (code.includes('import.meta.url') ? code.replaceAll('import.meta.url', JSON.stringify(pathToFileURL(id).href)) : null),
          },
        ],
      });
      const file = join(target, `${entry.replaceAll('/', '-')}.mjs`);
      await bundle.write({ file, codeSplitting: false });
      await bundle.close();
      return [pathToFileURL(join(root, `${entry}.ts`)).href, pathToFileURL(file).href];
    }),
  );
  return new Map(bundled);
}
