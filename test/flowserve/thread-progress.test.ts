/** How much of a silence counts: as much as the thread could have ended, if not even a lock kept it. */
import { describe, expect, it } from 'vitest';
import { ThreadProgress } from '../../src/flowserve/thread-progress.ts';
import { ownThreadId, type ThreadTimes, threadTimes, timesOfAll } from '../../src/runtime/os-thread.ts';

const WORKER = 2;
const OWN_ID = 17;
const HELPER_ID = 18;
const BEAT_MS = 50;

const ms = (run: number, wait: number, isRunnable: boolean, turns = 1): ThreadTimes => ({ run_ns: run * 1e6, wait_ns: wait * 1e6, turns, isRunnable });
const ASLEEP = ms(5, 5, false);

type Beat = { readonly own: ThreadTimes | null; readonly helper?: ThreadTimes; readonly isAtBell?: boolean; readonly id?: number };

/** The shares of beats, at each of which the worker's thread and a helper of the runtime are found so; of `asker`, where `others` ask in between. */
function sharesOf(beats: readonly Beat[], { known = true, others = [] as readonly string[], nudge = (_thread: number): void => {} } = {}): number[] {
  let beat = 0;
  const now = () => beats[beat] as Beat;
  const progress = new ThreadProgress({
    control: { progressOf: () => 0, osThreadOf: () => now().id ?? OWN_ID, isMarkedAsleep: () => now().isAtBell === true, nudge },
    timesOf: () => now().own,
    timesOfAll: () => new Map([...(now().own === null ? [] : [[OWN_ID, now().own as ThreadTimes] as const]), [HELPER_ID, now().helper ?? ASLEEP]]),
    ownThreadId: () => (known ? 1 : 0),
  });
  return beats.map((_, index) => {
    beat = index;
    for (const [place, other] of others.entries()) progress.of(other, WORKER, beat * BEAT_MS - 1 - place);
    const { share } = progress.of('task-executor/0', WORKER, beat * BEAT_MS);
    expect(progress.of('task-executor/0', WORKER, beat * BEAT_MS).share).toBe(share);
    return share;
  });
}

describe('the share of a silence that counts', () => {
  it('should be all of it where the thread sleeps at its bell, has ended, or nobody knows', () => {
    const starved = ms(5, 5, true);
    const atBell = { own: ASLEEP, helper: starved, isAtBell: true };
    expect(sharesOf([atBell, atBell, atBell])).toEqual([0, 100, 100]);
    expect(sharesOf([{ own: null }, { own: null }])).toEqual([0, 100]);
    expect(
      sharesOf(
        [
          { own: null, id: 0 },
          { own: null, id: 0 },
        ],
        { known: false },
      ),
    ).toEqual([0, 100]);
  });

  it('should be nothing of it before the thread has begun', () => {
    const notBegun = { own: null, id: 0 };
    const began = { own: ASLEEP, isAtBell: true };
    expect(sharesOf([notBegun, notBegun, notBegun, began, began])).toEqual([0, 0, 0, 0, 100]);
  });

  it('should not be what its predecessor on the same seat was given', () => {
    const spins = (run: number, id: number): Beat => ({ own: ms(run, 0, true), id });
    expect(sharesOf([spins(0, 17), spins(50, 17), spins(100, 19), spins(150, 19)])).toEqual([0, 100, 0, 100]);
  });

  it('should be what the thread was given where it is runnable', () => {
    expect(sharesOf([0, 10, 10, 40].map((run) => ({ own: ms(run, 0, true) })))).toEqual([0, 40, 0, 100]);
  });

  it('should be all of it where the thread sleeps elsewhere, such as for ever, and no thread of the process has to wait', () => {
    const busy = [0, 50, 100].map((run) => ({ own: ASLEEP, helper: ms(run, 0, true) }));
    expect(sharesOf(busy)).toEqual([0, 100, 100]);
  });

  it('should be a tenth of it where whoever has the lock that the thread sleeps for is kept from a processor all the time, so that it ends', () => {
    const starved = { own: ASLEEP, helper: ms(3, 7, true) };
    expect(sharesOf([starved, starved, starved])).toEqual([0, 10, 10]);
  });

  it('should be less by the longest that any thread waited at a stretch', () => {
    const waited = [0, 10, 40, 90].map((wait, turns) => ({ own: ASLEEP, helper: ms(wait, wait, false, turns) }));
    expect(sharesOf(waited)).toEqual([0, 80, 40, 10]);
    const taking_turns = [0, 10, 20, 30].map((turns) => ({ own: ASLEEP, helper: ms(2 * turns, 3 * turns, true, turns) }));
    expect(sharesOf(taking_turns)).toEqual([0, 94, 94, 94]);
  });

  it('should be less by all that any thread waited where the sleep has ended in between: it may have waited for each', () => {
    const taking_turns = [0, 10, 20, 30].map((turns) => ({ own: ms(0, 0, false, turns), helper: ms(2 * turns, 3 * turns, true, turns) }));
    expect(sharesOf(taking_turns)).toEqual([0, 40, 40, 40]);
  });

  it('should not stay so for whose bell has rung, though whoever rang it has woken nobody yet', () => {
    const nudged: number[] = [];
    const nudge = (thread: number): void => void nudged.push(thread);
    const asleep = { own: ASLEEP };
    sharesOf([{ ...asleep, isAtBell: true }, { own: ms(9, 0, true) }, { own: null }], { nudge });
    expect(nudged).toEqual([]);
    sharesOf([asleep, asleep], { nudge });
    expect(nudged).toEqual([WORKER, WORKER]);
  });

  it('should be of the time since the same asker looked', () => {
    const waited = [0, 10, 40, 90].map((wait, turns) => ({ own: ASLEEP, helper: ms(wait, wait, false, turns) }));
    expect(sharesOf(waited, { others: ['cluster-manager/0', 'task-executor/1'] })).toEqual([0, 80, 40, 10]);
  });
});

it.runIf(process.platform === 'linux')('a process knows all of its threads, and that this one runs', () => {
  const all = timesOfAll();
  expect(all.size).toBeGreaterThan(1);
  expect(all.get(ownThreadId())).toMatchObject({ isRunnable: true });
  expect(threadTimes(ownThreadId())?.run_ns).toBeGreaterThanOrEqual(all.get(ownThreadId())?.run_ns ?? Number.NaN);
  expect(threadTimes(ownThreadId())?.turns).toBeGreaterThanOrEqual(all.get(ownThreadId())?.turns ?? Number.NaN);
});
