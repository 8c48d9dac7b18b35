/** Writes what same-bits.test.ts holds both runtimes to: `node test/system/write-same-bits.ts`, after a change of numerics that was meant. */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createPod } from '../../src/index.ts';
import { folderOf, MODELS } from '../golden/goldens.ts';
import { digest, run } from './workload.ts';

const digests: Record<string, Record<string, string>> = {};
for (const name of MODELS) {
  await using pod = await createPod({ model: folderOf(name) });
  digests[name] = digest(await run(pod, 'one after the other'));
}
writeFileSync(fileURLToPath(new URL('same-bits.json', import.meta.url)), `${JSON.stringify(digests, null, 2)}\n`);
