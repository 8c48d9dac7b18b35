/**
 * Puts what a thread or the command loads, some 230 and 400 modules, into one file each: most of a thread's start is finding them. By measurement (CPU time,
 * Node 24) a thread that loads 228 modules takes 155 ms, as one file 50; `createPod` with one worker 600 and 370.
 *
 * @module
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';
import { bundleOf } from './bundle-names.ts';

/**
 * Bundles each entry of a clone into a file of `target`, and says which. Each module goes on finding what lies beside it.
 * `threadEntry`: what stands for src/runtime/thread-entry.ts.
 */
export async function bundleEntries(root: string, entries: readonly string[], target: string, threadEntry?: string): Promise<ReadonlyMap<string, string>> {
  const bundled = await Promise.all(
    entries.map(async (entry): Promise<[string, string]> => {
      const bundle = await rolldown({
        input: join(root, `${entry}.ts`),
        platform: 'node',
        plugins: [
          {
            name: 'where a module lies',
            transform: {
              filter: { code: 'import.meta.url' },
              handler: (code, id) => code.replaceAll('import.meta.url', JSON.stringify(pathToFileURL(id).href)),
            },
          },
          { name: 'how threads begin', resolveId: { filter: { id: /\/thread-entry\.ts$/ }, handler: () => threadEntry } },
        ],
      });
      const file = join(target, bundleOf(entry));
      await bundle.write({ file, codeSplitting: false });
      await bundle.close();
      return [pathToFileURL(join(root, `${entry}.ts`)).href, pathToFileURL(file).href];
    }),
  );
  return new Map(bundled);
}
