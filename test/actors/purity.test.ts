/** Actors know no time, no chance and no world: with all of it poisoned they run, and run the same. */
import { expect, it } from 'vitest';
import { address } from '../../src/protocol/address.ts';
import { cancel, submit } from '../../src/protocol/constructors.ts';
import { colocated } from '../../src/protocol/topology.ts';
import { greedySequence } from '../golden/greedy.ts';
import { QueuedCast } from './queued-cast.ts';

function live(): unknown {
  const cast = new QueuedCast({ topology: colocated(2), kv_blocks: 7, choices_max: 6 });
  let state = 99;
  const choose = (): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 8;
  };
  for (let request = 0; request < 4; request++) {
    const sequences = [0, 1].map((choice) => greedySequence(request, [request, choice, 3], 9, choice));
    cast.send(address('request', request), 'frontend/0', submit(sequences));
  }
  for (let count = 0; cast.step(choose); count++) {
    if (count === 60) cast.send('request/1', 'frontend/0', cancel());
    if (count === 40) cast.broken.add(1);
  }
  return structuredClone(cast.frontend);
}

it('actors touch neither clock nor chance nor timers, and do the same each time', () => {
  const first = live();
  const poison = (): never => {
    throw new Error('an actor touched what only its host may');
  };
  const real = {
    now: Date.now,
    random: Math.random,
    performance: performance.now,
    timeout: globalThis.setTimeout,
    interval: globalThis.setInterval,
    microtask: globalThis.queueMicrotask,
  };
  Date.now = poison;
  Math.random = poison;
  performance.now = poison;
  globalThis.setTimeout = poison as unknown as typeof setTimeout;
  globalThis.setInterval = poison as unknown as typeof setInterval;
  globalThis.queueMicrotask = poison;
  let second: unknown;
  try {
    second = live();
  } finally {
    Date.now = real.now;
    Math.random = real.random;
    performance.now = real.performance;
    globalThis.setTimeout = real.timeout;
    globalThis.setInterval = real.interval;
    globalThis.queueMicrotask = real.microtask;
  }
  expect(second).toEqual(first);
  expect((first as unknown[]).length).toBeGreaterThan(10);
});
