/**
 * A copy of a clone in which all mutants stand behind switches, with the configuration that its tests are run by.
 * @module
 */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';
import type { Mutant } from './draw.ts';
import { switched } from './switches.ts';

const LINKED = ['node_modules', 'models'];
const LEFT_OUT = new Set([...LINKED, '.git', 'dist']);

/** Its own: one test file after the other, as given, up to the first failure unless places are noted. */
const CONFIG = `import base from './vitest.config.ts';
class AsGiven { sort(files) { return files; } shard(files) { return files; } }
export default { ...base, test: {
  ...base.test, maxWorkers: 1, bail: process.env.REACHED || process.env.TEST_ORDERS ? 0 : 1, ...(process.env.TEST_ORDERS && { runner: './scripts/mutants/many-runner.ts' }), reporters: [{}], testTimeout: 25_000, sequence: { sequencer: AsGiven },
  setupFiles: [...base.test.setupFiles, 'scripts/mutants/reach-setup.ts'],
} };
`;

export async function makeCopy(root: string, copy: string, mutants: readonly Mutant[]): Promise<void> {
  mkdirSync(copy, { recursive: true });
  cpSync(root, copy, { recursive: true, filter: (path) => !LEFT_OUT.has(basename(path)) || path.slice(root.length + 1).includes('/') });
  for (const name of LINKED) symlinkSync(join(root, name), join(copy, name));
  for (const [file, changes] of Map.groupBy(mutants, (mutant) => mutant.file))
    writeFileSync(join(copy, file), switched(readFileSync(join(root, file), 'utf8'), changes));
  writeFileSync(join(copy, 'mutants.config.mjs'), CONFIG);
  const bundle = await rolldown({
    input: join(copy, 'scripts/mutants/seed-runs.ts'),
    platform: 'node',
    plugins: [
      {
        name: 'where a module lies',
        transform: (code, id) => (code.includes('import.meta.url') ? code.replaceAll('import.meta.url', JSON.stringify(pathToFileURL(id).href)) : null),
      },
    ],
  });
  await bundle.write({ file: join(copy, 'seed-runs.mjs'), codeSplitting: false });
  await bundle.close();
}
