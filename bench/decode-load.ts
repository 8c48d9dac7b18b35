/** Steady decoding, to be looked at by the profiler: `node --cpu-prof bench/decode-load.ts NPUS WORKERS REQUESTS TOKENS [eager]`. @module */
import { createPod } from '../src/index.ts';

const [npus = 1, workers = 1, requests = 1, tokens = 512] = process.argv.slice(2, 6).map(Number);
const enforce_eager = process.argv[6] === 'eager';
await using pod = await createPod({ npus, workers, enforce_eager });
const prompt = [1, 86, 1461, 613, 265];
const run = (): Promise<unknown> =>
  Promise.all(Array.from({ length: requests }, () => pod.complete(prompt, { max_tokens: tokens, temperature: 0, ignore_eos: true })));
for (let warm = 0; warm < 4; warm++) await run();
const before = await pod.stats();
const start = performance.now();
for (let round = 0; round < 8; round++) await run();
const milliseconds = performance.now() - start;
const steps = (stats: typeof before): number => Math.max(...stats.npus.map((npu) => npu.steps));
const after = await pod.stats();
console.log(JSON.stringify({ milliseconds, steps: steps(after) - steps(before), allSteps: steps(after) }));
