/**
 * The recorder's thread with a disk in trouble, as its environment says: `DISK_PAUSE_MS`, it pauses at the first record; `DISK_FAILS_AT_END`, it fails there.
 * @module
 */
import { MinipodError } from '../../src/protocol/errors.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';

const { DISK_PAUSE_MS: pause_ms, DISK_FAILS_AT_END: message } = process.env;
const { append, close } = TraceWriter.prototype;
let hasPaused = false;
TraceWriter.prototype.append = function (record) {
  if (!hasPaused && pause_ms) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(pause_ms));
  hasPaused = true;
  append.call(this, record);
};
TraceWriter.prototype.close = function () {
  if (message) throw new MinipodError('trace_not_written', message);
  return close.call(this);
};
await import('../../src/trace/recorder-thread.ts');
