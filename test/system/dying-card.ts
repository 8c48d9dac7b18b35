/** A network card that dies in the midst of its work, in each of its first lives: after so many requests of others have been served. */
import { workerData } from 'node:worker_threads';
import { CardServer } from '../../src/flowserve/distflow/network/card-server.ts';
import type { NetworkCardData } from '../../src/platform/network-card-thread.ts';

const LIVES = 3;
const REQUESTS_A_LIFE = 11;

const { lines } = workerData as NetworkCardData;
// What they count lies at the end of a queue pair that is otherwise used from its front.
const words = new Int32Array((lines[0] as NetworkCardData['lines'][number]).queue);
const life = Atomics.add(words, words.length - 1, 1);

const { listen } = CardServer.prototype;
CardServer.prototype.listen = function (...args) {
  let requests = 0;
  Object.defineProperty(this.counters, 'requests', {
    get: () => requests,
    set(count: number) {
      requests = count;
      // No acknowledgement, no queue pair closed, no answer: sockets and all are gone at once.
      if (life < LIVES && requests >= REQUESTS_A_LIFE) throw new Error('the card dies as the test wants it');
    },
  });
  return listen.apply(this, args);
};
await import('../../src/platform/network-card-thread.ts');
