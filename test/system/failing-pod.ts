/** A pod on this thread that fails, since its workers die again and again, and the thread with them. Its datum: the trace. @module */
import { setTimeout as sleep } from 'node:timers/promises';
import { workerData } from 'node:worker_threads';
import { openRig } from './rig.ts';

const rig = await openRig({ npus: 2, workers: 2, record: workerData as string });
/** A successor that is killed must be alive. */
const hasSucceeded = async (deaths: number): Promise<boolean> => {
  const { fabric, npus } = await rig.pod.stats();
  return fabric.threads.reduce((sum, { epoch }) => sum + epoch - 1, 0) >= deaths && npus.every(({ state }) => state === 'idle');
};
// Both at once: on a crowded machine six would not have begun and died one after the other in the time that makes them too many.
for (let deaths = 0; ; deaths += 2) {
  while (!(await hasSucceeded(deaths))) await sleep(20);
  rig.killWorker(0);
  rig.killWorker(1);
}
