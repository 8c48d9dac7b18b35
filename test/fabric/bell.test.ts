/** Sleeping and waking across real threads: no wake is lost. */
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links, planRings } from '../../src/fabric/links.ts';
import { FRAME_KIND } from '../../src/fabric/ring.ts';
import { EventLoopSleeper } from '../../src/runtime/event-loop.ts';

const ROUNDS = 3_000;
const CONTROL_AT = 65_536;

it.each(['blocking', 'beside an event loop'] as const)('two threads that sleep after each frame answer one another without one lost wake, %s', async (how) => {
  const { rings, bytes } = planRings(
    [
      { from: 0, to: 1, capacity: 1_024 },
      { from: 1, to: 0, capacity: 1_024 },
    ],
    2 * 65_536,
  );
  const pages = 2 + Math.ceil(bytes / 65_536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const control = new ControlPage(memory, CONTROL_AT);
  const links = new Links(0, memory, rings, control);
  const worker = new Worker(new URL('bell-thread.ts', import.meta.url), { workerData: { memory, rings, controlPage: CONTROL_AT } });
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
