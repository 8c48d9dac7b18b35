/** Garbage collections of a thread: all are counted on every runtime, and where the runtime can they come at chosen moments. */
import { describe, expect, it } from 'vitest';
import { Collections } from '../../src/runtime/collections.ts';

const canChoose = !('Deno' in globalThis);
/** Of which nothing is kept. */
function makeGarbage(mebibytes: number): number {
  let kept = 0;
  for (let made = 0; made < mebibytes * 1_024; made++) kept += new Array(127).fill(made).length;
  return kept;
}

describe('collections of a thread', () => {
  it('should count those that the runtime makes by itself, with their time', () => {
    const collections = new Collections();
    const before = collections.report();
    makeGarbage(256);
    const { collections: count, collections_us_sum, collections_us_max } = collections.report();
    expect(count).toBeGreaterThan(before.collections);
    expect(collections_us_max).toBeGreaterThan(0);
    expect(collections_us_sum).toBeGreaterThanOrEqual(collections_us_max);
    // Microseconds: 256 MiB take milliseconds to seconds, whatever the runtime's own unit.
    expect(collections_us_sum).toBeLessThan(60e6);
  });

  it('should come in a rest once there is something to collect, and not again before there is', () => {
    const collections = new Collections();
    const deadline = performance.now() + 10_000;
    const chosen = (): number => collections.report().collections_chosen;
    // The runtime may collect in between: then there is nothing to collect.
    while (canChoose && chosen() === 0 && performance.now() < deadline) {
      makeGarbage(5);
      collections.rest();
    }
    expect(chosen()).toBe(canChoose ? 1 : 0);
    for (let rest = 0; rest < 20; rest++) collections.rest();
    expect(chosen()).toBe(canChoose ? 1 : 0);
  });

  it('should not come between two steps that leave little behind', () => {
    const collections = new Collections();
    for (let step = 0; step < 1_000; step++) collections.betweenSteps();
    expect(collections.report().collections_chosen).toBe(0);
  });
});
