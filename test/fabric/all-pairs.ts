/** Several threads, each of which sends to each other on both lanes as fast as it can, payloads of random sizes over small rings and slabs. */
import { Worker } from 'node:worker_threads';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { planRings, type RingPlace } from '../../src/fabric/links.ts';
import { bareSegments } from './segments.ts';

export type AllPairsData = {
  readonly thread: number;
  readonly threads: number;
  /** The first holds rings and table. */
  readonly memories: readonly [WebAssembly.Memory, ...WebAssembly.Memory[]];
  readonly rings: readonly RingPlace[];
  readonly controlAt: number;
  readonly tableAt: number;
  readonly seed: number;
};

export type AllPairsResult = {
  /** Frames received and checked; those that were wrong; those dropped as stale. */
  readonly frames: number;
  readonly errors: number;
  readonly stale: number;
  /** How often a payload had to wait for room; and a thread was woken. */
  readonly full: number;
  readonly wakes: number;
  readonly latencies: number;
};

const PAGE = 65_536;
const RING_BYTES = 16_384;
/** So long may the last frames take to arrive. */
const END_MS = 30_000;
const LOOK_MS = 10;

export async function exchangeAllPairs(threads: number, segments: number, duration_ms: number, seed: number): Promise<AllPairsResult> {
  const numbers = Array.from({ length: threads }, (_, thread) => thread);
  const pairs = numbers.flatMap((from) => numbers.filter((to) => to !== from).map((to) => ({ from, to, capacity: RING_BYTES, slab_bytes: 2 * RING_BYTES })));
  const { rings, bytes } = planRings(pairs, 3 * PAGE);
  const pages = 3 + Math.ceil(bytes / PAGE);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const [controlAt, tableAt] = [PAGE, 2 * PAGE];
  const memories: AllPairsData['memories'] = [memory, ...bareSegments(segments - 1)];
  const control = new ControlPage(memories, controlAt);
  const ended = numbers.map((thread) => {
    const data: AllPairsData = { thread, threads, memories, rings, controlAt, tableAt, seed };
    const worker = new Worker(new URL('all-pairs-thread.ts', import.meta.url), { workerData: data });
    return new Promise<void>((resolve, reject) => {
      worker.once('error', reject);
      worker.once('exit', () => resolve());
    });
  });
  const failed = Promise.all(ended);
  await Promise.race([failed, sleep(duration_ms)]);
  // On a crowded machine they may hardly have begun by then.
  for (let waited_ms = 0; waited_ms < END_MS && numbers.every((thread) => control.wakes(thread) === 0); waited_ms += LOOK_MS)
    await Promise.race([failed, sleep(LOOK_MS)]);
  for (const thread of numbers) control.stop(thread);
  const late = sleep(END_MS).then(() => Promise.reject(new Error(`threads did not end within ${END_MS / 1_000} s: a frame, its room or a wake was lost`)));
  await Promise.race([failed, late]);
  const table = new Int32Array(memory.buffer, tableAt);
  const sum = (word: number): number => numbers.reduce((total, thread) => total + (table[thread * 8 + word] as number), 0);
  const wakes = numbers.reduce((total, thread) => total + control.wakes(thread), 0);
  return { frames: sum(1), errors: sum(2), stale: sum(3), full: sum(4), latencies: sum(5), wakes };
}

const sleep = (duration_ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, duration_ms).unref());
