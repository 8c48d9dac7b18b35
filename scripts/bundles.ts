/**
 * Puts what a thread or the command loads, some 230 and 400 modules, into one file each: most of a thread's start is finding them. By measurement (CPU time,
 * Node 24) a thread that loads 228 modules takes 155 ms, as one file 50; `createPod` with one worker 600 and 370.
 *
 * That file is a script, not a module: of a script V8 keeps what it has compiled by the end of a thread, of a module what it had compiled at its beginning, and
 * each thread compiles 1,100 to 1,500 functions more. A pod with one worker that answers one request takes 490 ms so on Deno, and 670 as modules (CPU time).
 *
 * @module
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';
import { bundleOf } from './bundle-names.ts';

/** They await something at their top, which a script cannot: they stay modules. */
const WAITS: readonly string[] = ['src/cli/main', 'src/platform/network-card-thread', 'src/trace/recorder-thread'];

/** By then a pod of the suite has begun, on a busy machine, too. */
const BEGUN_MS = 1_000;

/**
 * Runs a bundle, with what V8 made of it in an earlier thread under the same flags. Who is the first keeps it: a worker when it ends, whose loop lets no timer
 * run; a control thread, which is terminated, once it has begun.
 */
const begin = (name: string): string => `import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { cachedDataVersionTag } from 'node:v8';
import { constants, Script } from 'node:vm';
import { threadId } from 'node:worker_threads';

const filename = fileURLToPath(new URL(${JSON.stringify(name)}, import.meta.url));
const compiled = \`\${filename}.\${cachedDataVersionTag()}\`;
const read = () => {
  try {
    return readFileSync(compiled);
  } catch {}
};
const cachedData = read();
const source = \`(function (require, exports) {'use strict';\${readFileSync(filename, 'utf8')}\\n})\`;
const script = new Script(source, { filename, cachedData, importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER });
if (cachedData === undefined || script.cachedDataRejected) {
  const keep = () => {
    clearTimeout(timer);
    process.off('exit', keep);
    const making = \`\${compiled}.\${process.pid}.\${threadId}\`;
    // A disk that is full, or a process that may write no such file, costs nobody more than compiling anew.
    try {
      writeFileSync(making, script.createCachedData());
      renameSync(making, compiled);
    } catch {
      rmSync(making, { force: true });
    }
  };
  const timer = setTimeout(keep, ${BEGUN_MS}).unref();
  process.on('exit', keep);
}
script.runInThisContext()(createRequire(import.meta.url), {});
`;

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
      if (WAITS.includes(entry)) await bundle.write({ file, codeSplitting: false });
      else {
        const script = bundleOf(entry).replace('.mjs', '.cjs');
        await bundle.write({ file: join(target, script), codeSplitting: false, format: 'cjs' });
        writeFileSync(file, begin(script));
      }
      await bundle.close();
      return [pathToFileURL(join(root, `${entry}.ts`)).href, pathToFileURL(file).href];
    }),
  );
  return new Map(bundled);
}
