/**
 * Makes dist/: JavaScript, declarations, and what the code reads from beside itself.
 *
 * @example
 * node scripts/build.ts
 * UNCHECKED=1 npm pack     # the same files in half the time, where types have been checked already
 * @module
 */
import { spawnSync } from 'node:child_process';
import { copyFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');

/** Read by kernels.js as its neighbour. */
const BESIDE = ['src/model/kernels/kernels.wasm'];

// What an earlier build left would be published too.
await rm(join(ROOT, 'dist'), { recursive: true, force: true });
const checks = process.env['UNCHECKED'] === undefined ? [] : ['--noCheck'];
const { status } = spawnSync(process.execPath, [TSC, '-p', 'tsconfig.build.json', ...checks], { cwd: ROOT, stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
for (const path of BESIDE) await copyFile(join(ROOT, path), join(ROOT, 'dist', path));
