/** Runs of every sort, recorded for the tests of what is made of traces: aborts, several choices, preemptions, refusals, dead workers. */
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import { openRig } from '../system/rig.ts';

const HARMLESS = new Set(['cancelled', 'worker_failed', 'out_of_memory', 'rate_limit_exceeded', 'overloaded']);

/** So many calls at once: of `n` 1 to 3, some aborted after their fifth token, some with a stop string. */
export async function useRecorded(pod: Pod, calls: number, onToken: () => void = () => {}): Promise<void> {
  await Promise.all(
    Array.from({ length: calls }, async (_, index) => {
      const abort = new AbortController();
      let chunks = 0;
      const options = {
        max_tokens: 6 + (index % 7) * 4,
        temperature: 1,
        seed: index,
        n: 1 + (index % 3),
        stop: index % 4 === 3 ? ['e'] : [],
        signal: abort.signal,
      };
      try {
        for await (const _chunk of pod.generate([1, 86, 1461, 613 + index], options)) {
          onToken();
          if (++chunks === 5 && index % 5 === 1) abort.abort();
        }
      } catch (error) {
        if (!HARMLESS.has((error as { code: string }).code)) throw error;
      }
    }),
  );
}

/** Two runs of one seed are one trace. */
export async function recordVirtual(path: string, options: PodOptions = {}, calls = 12): Promise<void> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 7, npus: 3, workers: 2, ...options, record: path });
  await useRecorded(pod, calls);
}

/** KV blocks for less than what is asked for: sequences are preempted and computed again. */
export const recordPreemptions = (path: string): Promise<void> => recordVirtual(path, { npus: 1, workers: 1, kv_blocks: 4, max_batch_tokens: 32 }, 14);

/** Prefill and decode on task executors of their own, with KV blocks for few. */
export const recordHandoffs = (path: string): Promise<void> =>
  recordVirtual(path, { topology: 'pd:prefill=2,decode=2', npus: undefined, kv_blocks: 5, max_batch_tokens: 32, max_batch_requests: 3 }, 14);

export async function recordLiveHandoffs(path: string): Promise<void> {
  await using pod = await createPod({ topology: 'pd:prefill=2,decode=1', workers: 2, kv_blocks: 6, record: path });
  for (let round = 0; round < 2; round++) await useRecorded(pod, 12);
}

export async function recordLive(path: string): Promise<void> {
  await using pod = await createPod({ npus: 4, workers: 2, record: path });
  for (let round = 0; round < 2; round++) await useRecorded(pod, 12);
}

/** Each worker dies once while it has work. */
export async function recordDeaths(path: string): Promise<void> {
  await using rig = await openRig({ npus: 4, workers: 2, job_executors: 1, record: path });
  for (const worker of [0, 1]) {
    const { promise: hasBegun, resolve } = Promise.withResolvers<void>();
    const running = useRecorded(rig.pod, 10, resolve);
    await hasBegun;
    rig.killWorker(worker);
    await running;
  }
}
