/** One thread of rig-threads.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { openThread, type ThreadStart } from './rig-threads.ts';

const start: ThreadStart = workerData;
try {
  const { default: program } = await import(start.program);
  parentPort?.postMessage({ result: await program(openThread(start), start.args) });
} catch (error) {
  parentPort?.postMessage({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}
