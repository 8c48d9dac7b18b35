/** The long stress of the rings: `node test/fabric/stress.ts [seconds [seed [segments]]]`, or the same with `deno run -A`. Four threads, all pairs, both lanes, every word checked. */
import { exchangeAllPairs } from './all-pairs.ts';

const THREADS = 4;
const seconds = Number(process.argv[2] ?? 60);
const seed = Number(process.argv[3] ?? Math.floor(performance.timeOrigin) % 1_000_000);
const segments = Number(process.argv[4] ?? 1);

console.log(`seed ${seed}: node test/fabric/stress.ts ${seconds} ${seed} ${segments}`);
const { frames, errors, stale, full, wakes, latencies } = await exchangeAllPairs(THREADS, segments, seconds * 1_000, seed);
console.log(`${frames} frames in ${seconds} s, ${errors} errors, ${stale} stale; ${full} waited for room, ${wakes} wakes, ${latencies} timed`);
process.exitCode = errors > 0 || stale > 0 ? 1 : 0;
