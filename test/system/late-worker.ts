/** A worker thread that takes its time to start: longer than one that is told to stop has for it. */
const LATE_MS = 400;

Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LATE_MS);
await import('../../src/platform/npu-worker-thread.ts');
