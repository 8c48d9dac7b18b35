/**
 * Whose processor time tokens take: a pod's threads, and two bare loops side by side for the same tokens, in turns. On cores that workers fill, what all threads
 * take is what a token costs, whatever the clock says; and it can be told on a machine that others use as well. Linux alone says it (`schedstat`).
 *
 * @example
 * node bench/thread-times.ts          # BENCH_REQUESTS=32 BENCH_ROUNDS=20 …
 * @module
 */
import { readdirSync, readFileSync } from 'node:fs';
import type { PodOptions } from '../src/index.ts';
import { createLivePod, type LivePod } from '../src/pod/live-pod.ts';
import { CONTROL_THREAD } from '../src/runtime/directory.ts';
import { threadTimes } from '../src/runtime/os-thread.ts';
import { BareLoopPair } from './bare-loop-pair.ts';
import { machine, printTable } from './harness.ts';
import { promptsOf } from './prompts.ts';

const REQUESTS = Number(process.env['BENCH_REQUESTS'] ?? 16);
const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 128);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 15);
/** As in pod.ts: V8 still compiles after this, as its own row shows. */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 25_000);

const PODS: readonly PodOptions[] = [
  { npus: 2, workers: 2 },
  { topology: 'mixed:colocated=2xdp1', workers: 2 },
];

const prompts = promptsOf(REQUESTS);

async function podRound(pod: LivePod): Promise<void> {
  await Promise.all(
    prompts.map(async (prompt) => {
      for await (const _ of pod.generate(prompt, { max_tokens: TOKENS, temperature: 0, ignore_eos: true }));
    }),
  );
}

const threadIds = (): number[] => readdirSync('/proc/self/task').map(Number);
const timesNow_ns = (): Map<number, number> => new Map(threadIds().map((id) => [id, threadTimes(id)?.run_ns ?? 0]));

/** `workers`: threads of the pod's workers. */
function nameOf(id: number, workers: ReadonlySet<number>): string {
  if (workers.has(id)) return 'workers';
  if (id === process.pid) return 'caller';
  return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').startsWith('V8') ? 'V8’s own' : 'control, others';
}

/** Milliseconds by name that a round takes. */
async function measure(round: () => Promise<void>, names: (id: number) => string, spent_ms: Map<string, number>): Promise<void> {
  const before = timesNow_ns();
  await round();
  for (const [id, run_ns] of timesNow_ns()) {
    const name = names(id);
    spent_ms.set(name, (spent_ms.get(name) ?? 0) + (run_ns - (before.get(id) ?? 0)) / 1e6 / ROUNDS);
  }
}

const sumOf = (spent_ms: ReadonlyMap<string, number>): number => [...spent_ms.values()].reduce((sum, ms) => sum + ms, 0);

await using bare = await BareLoopPair.start();
for (const options of PODS) {
  await using pod = await createLivePod(options);
  const { control } = pod.space;
  const workers = new Set(Array.from({ length: 16 }, (_, worker) => control.osThreadOf(CONTROL_THREAD + 1 + worker)).filter((id) => id > 0));
  for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) await podRound(pod);
  const [ofPod, ofBare] = [new Map<string, number>(), new Map<string, number>()];
  for (let round = 0; round < ROUNDS; round++) {
    await measure(
      () => bare.generate(prompts, TOKENS),
      () => 'bare loops',
      ofBare,
    );
    await measure(
      () => podRound(pod),
      (id) => nameOf(id, workers),
      ofPod,
    );
  }
  const [all_ms, bare_ms] = [sumOf(ofPod), sumOf(ofBare)];
  const us = (ms: number): string => ((ms * 1000) / (REQUESTS * TOKENS)).toFixed(1);
  printTable(
    `${options.topology ?? '2 NPUs'} on 2 workers, ${REQUESTS} requests of ${TOKENS} tokens: processor time (${ROUNDS} rounds in turns; ${machine()['cpu']})`,
    ['threads', 'µs a token', 'of bare'],
    [...ofPod, ['all of the pod', all_ms] as const, ['bare loops', bare_ms] as const].map(([name, ms]) => [name, us(ms), (ms / bare_ms).toFixed(3)]),
  );
  console.log(`bare / pod: ${(bare_ms / all_ms).toFixed(3)}`);
}
