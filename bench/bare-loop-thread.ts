/** A bare loop on a thread of its own, so that two run side by side. @module */
import { parentPort } from 'node:worker_threads';
import { loadBareLoop } from './bare-loop.ts';

const loop = await loadBareLoop();
parentPort?.on('message', ({ prompts, count }: { prompts: number[][]; count: number }) => {
  const start = performance.now();
  const output = loop.generate(prompts, count);
  parentPort?.postMessage({ output, milliseconds: performance.now() - start });
});
parentPort?.postMessage('ready');
