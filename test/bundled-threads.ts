/**
 * Before all tests: threads and commands that tests start load one file each, made of the sources as they are now (scripts/bundles.ts). A pod starts in 0.6 of
 * the time so, and tests start hundreds. On Node the loader puts the bundle in a source's place; on Deno, whose loader does not do so for a thread, whoever
 * starts it does (bundled-loader.ts, bundled-entry.ts). In the packed program, and in what test/deno and test/examples run on Deno, each module is loaded by
 * itself.
 *
 * SOURCES=1 turns it off: then an error's stack names the source.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { TestProject } from 'vitest/node';
import { ENTRIES } from '../scripts/bundle-names.ts';
import { bundleEntries } from '../scripts/bundles.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** What tests start that misbehave in a thread. */
const ROGUES = ['test/system/rogue-worker', 'test/system/rogue-control'];
/** Of all clones on this machine. */
const BUNDLES = join(tmpdir(), 'minipod-bundles');
/** Bundles are kept so long for the next run. */
const KEPT_MS = 3_600_000;
const given = process.env['NODE_OPTIONS'];
const isDeno = 'Deno' in globalThis;
/** What stands for src/runtime/thread-entry.ts on Deno. */
const THREAD_ENTRY = join(ROOT, 'test/bundled-entry.ts');

/** Stands for the sources, and what they are bundled by, as they are now. */
function versionOfSources(): string {
  const hash = createHash('sha256').update(`${ROOT} ${isDeno}`);
  const tools = ['scripts/bundles.ts', 'scripts/bundle-names.ts', 'test/bundled-threads.ts', 'test/bundled-entry.ts', 'package-lock.json'];
  for (const folder of ['src', 'actors', 'test/system', ...tools].map((path) => join(ROOT, path))) {
    const files = statSync(folder).isFile() ? [folder] : readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((path) => join(folder, path));
    for (const file of files.sort()) {
      const { size, mtimeMs } = statSync(file);
      hash.update(`${file} ${size} ${mtimeMs}\n`);
    }
  }
  return hash.digest('hex').slice(0, 16);
}

/** Node's loader takes the bundle where a source was asked for. A Node too old for that (npm may bring its own) runs on as it is. */
const hook = (bundled: ReadonlyMap<string, string>): string => `import module from 'node:module';
const bundled = new Map(${JSON.stringify([...bundled])});
const names = new Set([...bundled.keys()].map((url) => url.slice(url.lastIndexOf('/') + 1)));
module.registerHooks?.({
  resolve(specifier, context, next) {
    const resolved = next(specifier, context);
    // A test's thread that changes a module before it imports the entry shall change the one that the entry uses.
    const isFirst = context.parentURL === undefined || context.parentURL.endsWith('/bin/minipod.js');
    const url = isFirst && names.has(specifier.slice(specifier.lastIndexOf('/') + 1)) ? bundled.get(resolved.url) : undefined;
    return url === undefined ? resolved : { url, format: 'module', shortCircuit: true };
  },
});
`;

function removeOld(): void {
  for (const name of readdirSync(BUNDLES)) {
    const path = join(BUNDLES, name);
    const age_ms = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age_ms > KEPT_MS) rmSync(path, { recursive: true, force: true });
  }
}

async function bundle(): Promise<void> {
  mkdirSync(BUNDLES, { recursive: true });
  const folder = join(BUNDLES, versionOfSources());
  if (!existsSync(folder)) {
    removeOld();
    // Named when it is whole: another run of the same sources may look for it.
    const making = mkdtempSync(join(BUNDLES, 'making-'));
    const bundled = await bundleEntries(ROOT, [...ENTRIES, ...ROGUES], making, isDeno ? THREAD_ENTRY : undefined);
    const moved = [...bundled].map(([source, url]): [string, string] => [source, url.replace(pathToFileURL(making).href, pathToFileURL(folder).href)]);
    writeFileSync(join(making, 'hook.mjs'), hook(new Map(moved)));
    if (existsSync(folder)) rmSync(making, { recursive: true });
    else renameSync(making, folder);
  }
  // Whoever clears old ones goes by this, and this run needs it to its end.
  utimesSync(folder, new Date(), new Date());
  if (isDeno) process.env['MINIPOD_BUNDLES'] = `${pathToFileURL(folder).href}/`;
  else process.env['NODE_OPTIONS'] = [...(given === undefined ? [] : [given]), `--import=${pathToFileURL(join(folder, 'hook.mjs')).href}`].join(' ');
}

export default async function setup(project: TestProject): Promise<void> {
  if (process.env['SOURCES'] !== undefined) return;
  await bundle();
  project.onTestsRerun(bundle);
}
