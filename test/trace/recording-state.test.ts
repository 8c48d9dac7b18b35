/** The bell between threads whose ring is full and whoever reads it. */
import { describe, expect, it } from 'vitest';
import { ActLog, makeActRing } from '../../src/trace/act-log.ts';
import { isOver, makeState, ReaderBell, ringBell } from '../../src/trace/recording-state.ts';
import { actOf } from './acts-of-size.ts';

/** Longer than waitAsync was ever seen to stay unresolved. */
const LONG_MS = 30_000;

describe('the bell of a reader of rings', () => {
  it('ends its sleep, whether it rings during it or before', async () => {
    const state = makeState();
    const bell = new ReaderBell(state);
    const before_ms = performance.now();
    for (let nth = 0; nth < 20; nth++) {
      const slept = bell.sleep(LONG_MS);
      ringBell(state);
      await slept;
      ringBell(state);
      await bell.sleep(LONG_MS);
    }
    expect(performance.now() - before_ms).toBeLessThan(LONG_MS / 2);
  });

  it('is muted by a sleep: the next one lasts until its time is over', async () => {
    const state = makeState();
    const bell = new ReaderBell(state);
    ringBell(state);
    await bell.sleep(LONG_MS);
    const before_ms = performance.now();
    await bell.sleep(50);
    expect(performance.now() - before_ms).toBeGreaterThan(40);
  });

  it('is rung by a thread whose ring is full, before it gives up', () => {
    const state = makeState();
    const calls: boolean[] = [];
    const now_ms = (): number => {
      if (!isOver(state)) calls.push(isRung(state));
      return performance.now();
    };
    const log = new ActLog(makeActRing(1, state, { whenFull: 'stop', prompts: 'recorded', patience_ms: 20 }), { now_ms });
    for (let number = 1; !isOver(state); number++) log.append(actOf(1, number, 20_000));
    expect(calls[0]).toBe(false);
    expect(calls.at(-1)).toBe(true);
  });
});

const isRung = (state: Int32Array): boolean => Atomics.load(state, 1) === 1;
