#!/usr/bin/env node
// Runs the sources in a clone, the built files where minipod is installed. Plain enough for an old Node to read and say so.
import { existsSync } from 'node:fs';
import { sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const major = Number(process.versions.node.split('.')[0]);
if (major < 24) {
  console.error(`minipod: needs Node 24 or later, this is ${process.version}. In a clone, npx minipod and npm start use the one that npm ci installs.`);
  process.exit(1);
}
const here = fileURLToPath(import.meta.url);
const source = new URL('../src/cli/main.ts', import.meta.url);
const built = new URL('../dist/src/cli/main.js', import.meta.url);
// Node strips types everywhere but under node_modules.
const isInstalled = here.split(sep).includes('node_modules');
const entry = !isInstalled && existsSync(source) ? source : built;
if (!existsSync(entry)) {
  console.error(`minipod: ${fileURLToPath(entry)} is missing; in a clone, run npm run build`);
  process.exit(1);
}
// Compiling the sources takes a third of a start; what V8 made of them last time is kept in the machine's temporary folder. Named, since an old Node lacks it.
const { enableCompileCache } = await import('node:module');
const { directory } = enableCompileCache?.() ?? {};
// The threads of a pod look for it here.
if (directory !== undefined) process.env.NODE_COMPILE_CACHE ??= directory;
await import(entry.href);
