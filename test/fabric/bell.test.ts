/** Sleeping and waking across real threads: no wake is lost. */
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { FRAME_KIND } from '../../src/fabric/ring.ts';
import { EventLoopSleeper } from '../../src/runtime/event-loop.ts';
import { TRIED } from './segments.ts';
import { CONTROL_AT, twoThreads } from './two-threads.ts';

const ROUNDS = 3_000;
const WAYS = ['blocking', 'beside an event loop'] as const;

describe.each(TRIED)('over %i segments', (segments) => {
  it.each(WAYS)('two threads that sleep after each frame answer one another without one lost wake, %s', async (how) => {
    const { memories, rings, control, linksOf } = twoThreads(1_024, { segments });
    const links = linksOf(0);
    const worker = new Worker(new URL('bell-thread.ts', import.meta.url), { workerData: { memories, rings, controlPage: CONTROL_AT } });
    const exited = new Promise((resolve) => worker.once('exit', resolve));
    const sleeper = new EventLoopSleeper(control, 0);
    let answers = 0;
    let slowest_ms = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const start = performance.now();
      links.send(1, 'data', { kind: FRAME_KIND.message, source: round, destination: 0, roles: 0 }, null);
      links.flush();
      for (let done = false; !done; ) {
        links.receive((_, ring) => {
          expect(ring.header.source).toBe(round);
          answers++;
          done = true;
        });
        if (done) break;
        if (how === 'blocking') control.sleep(0, 10_000, () => links.hasInbound());
        else await sleeper.sleep(10_000, () => links.hasInbound());
      }
      if (round > 0) slowest_ms = Math.max(slowest_ms, performance.now() - start);
    }
    control.stop(1);
    await exited;
    expect(answers).toBe(ROUNDS);
    expect(slowest_ms).toBeLessThan(5_000);
  });
});

it('who sleeps on, since whoever rang its bell was put off before it woke anybody, is woken by a nudge, and by no second ring', async () => {
  const { control } = twoThreads(1_024, {});
  control.markAsleep(0);
  let isAwake = false;
  const rung = control.untilRung(0)?.then(() => {
    isAwake = true;
  });
  // As far as a ringer came.
  control.markAwake(0);
  expect(control.ring(0)).toBe(false);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(isAwake).toBe(false);
  control.nudge(0);
  await rung;
  expect(isAwake).toBe(true);
});
