/**
 * The recorder's thread with a disk in trouble, as its environment says: `DISK_PAUSE_MS`, it pauses at the first record, or, `over`, until the recording is over, or, `told`, until a
 * thread has said that it waits; `DISK_FAILS_AT_END`, it fails there.
 * @module
 */
import { workerData } from 'node:worker_threads';
import { MinipodError } from '../../src/protocol/errors.ts';
import type { RecorderData } from '../../src/trace/recorder-thread.ts';
import { waitUnlessOver } from '../../src/trace/recording-state.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';

const PAUSE_MS_MAX = 60_000;
const { DISK_PAUSE_MS: pause_ms, DISK_FAILS_AT_END: message } = process.env;
const { append, close } = TraceWriter.prototype;
const WAITS_WORD = 2;

function pause(until: string): void {
  const { state } = workerData as RecorderData;
  const nap = (ms: number): unknown => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  if (until === 'over') waitUnlessOver(state, PAUSE_MS_MAX);
  else if (until === 'told') for (let waited = 0; waited < PAUSE_MS_MAX && Atomics.load(state, WAITS_WORD) === 0; waited += 10) nap(10);
  else nap(Number(until));
}

let hasPaused = false;
TraceWriter.prototype.append = function (record) {
  if (!hasPaused && pause_ms) pause(pause_ms);
  hasPaused = true;
  append.call(this, record);
};
TraceWriter.prototype.close = function () {
  if (message) throw new MinipodError('trace_not_written', message);
  return close.call(this);
};
await import('../../src/trace/recorder-thread.ts');
