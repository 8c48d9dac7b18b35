/** A network card that hangs in the midst of its work, in its first life: after so many requests of others have been served. */
import { workerData } from 'node:worker_threads';
import { CardServer } from '../../src/flowserve/distflow/network/card-server.ts';
import type { NetworkCardData } from '../../src/platform/network-card-thread.ts';

const REQUESTS_BEFORE = 11;

const { lines } = workerData as NetworkCardData;
// What they count lies at the end of a queue pair that is otherwise used from its front.
const words = new Int32Array((lines[0] as NetworkCardData['lines'][number]).queue);
const isFirst = Atomics.add(words, words.length - 1, 1) === 0;

const { listen } = CardServer.prototype;
CardServer.prototype.listen = function (...args) {
  let requests = 0;
  Object.defineProperty(this.counters, 'requests', {
    get: () => requests,
    set(count: number) {
      requests = count;
      // For ever: neither answers nor looks at its stop word.
      if (isFirst && requests >= REQUESTS_BEFORE) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    },
  });
  return listen.apply(this, args);
};
await import('../../src/platform/network-card-thread.ts');
