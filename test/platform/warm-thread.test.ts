/** A thread waits for whoever is lost next, once all has run for a while; it is given once, and its own end leaves nothing to be given. */
import { EventEmitter } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { WarmThread } from '../../src/platform/warm-thread.ts';

class FakeThread extends EventEmitter {
  isTerminated = false;
  async terminate(): Promise<number> {
    this.isTerminated = true;
    return 0;
  }
}

function warmThread() {
  const started: FakeThread[] = [];
  const due: { readonly delay_ms: number; readonly act: () => void }[] = [];
  const timers = {
    after: (delay_ms: number, act: () => void) => {
      const one = { delay_ms, act };
      due.push(one);
      return () => void due.splice(due.indexOf(one) >>> 0, 1);
    },
  };
  const warm = new WarmThread(timers, () => {
    started.push(new FakeThread());
    return started.at(-1) as unknown as Worker;
  });
  return { warm, started, due, pass: () => due.shift()?.act() };
}

it('one waits when the workers have run for a while, and is given once', () => {
  const { warm, started, due, pass } = warmThread();
  warm.keep(false);
  warm.keep(false);
  expect([started.length, due.length, warm.take()]).toEqual([0, 1, null]);
  pass();
  expect(warm.take()).toBe(started[0]);
  expect(warm.take()).toBe(null);
});

it('another one follows a successor sooner than the first followed the start', () => {
  const { warm, started, due, pass } = warmThread();
  warm.keep(false);
  const first_ms = due[0]?.delay_ms as number;
  pass();
  warm.take();
  warm.keep(true);
  expect(due[0]?.delay_ms).toBeLessThan(first_ms);
  pass();
  warm.keep(true);
  pass();
  expect(started.length).toBe(2);
});

it('one that has ended is not given, and none is left behind by a pod that closes', () => {
  const { warm, started, due, pass } = warmThread();
  warm.keep(false);
  pass();
  started[0]?.emit('exit', 1);
  expect(warm.take()).toBe(null);
  warm.keep(true);
  pass();
  warm.close();
  expect(started[1]?.isTerminated).toBe(true);
  warm.keep(true);
  expect([due.length, warm.take()]).toEqual([0, null]);
});
