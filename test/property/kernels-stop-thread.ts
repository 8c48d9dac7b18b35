/** The other thread of kernels-stop.test.ts: does the work that it is told, and says how it ended. */
import { workerData } from 'node:worker_threads';
import { instantiateKernels, loadKernelModule } from '../../src/model/kernels/kernels.ts';
import { ownThreadId } from '../../src/runtime/os-thread.ts';
import { CONTROL_AT, ENDED, LEAVE, longWork, WORD, WORDS } from './kernels-stop-work.ts';

const memory: WebAssembly.Memory = workerData;
const control = new Int32Array(memory.buffer, CONTROL_AT, WORDS);
const kernels = instantiateKernels(await loadKernelModule(), memory);
kernels.setStopWord(CONTROL_AT + WORD.stop * 4);
const work = longWork(kernels, memory);
Atomics.store(control, WORD.thread, ownThreadId());

function outcome(run: (() => void) | undefined): number {
  try {
    run?.();
    return ENDED.returned;
  } catch (error) {
    return error instanceof WebAssembly.RuntimeError && /unreachable/.test(error.message) ? ENDED.stopped : ENDED.failed;
  }
}

for (;;) {
  Atomics.wait(control, WORD.command, 0);
  const command = Atomics.exchange(control, WORD.command, 0);
  if (command === LEAVE) break;
  Atomics.store(control, WORD.running, 1);
  Atomics.notify(control, WORD.running);
  const ended = outcome(work[command - 1]);
  Atomics.store(control, WORD.ended, ended);
  Atomics.notify(control, WORD.ended);
}
