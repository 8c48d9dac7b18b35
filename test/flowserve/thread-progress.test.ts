/** How much of a silence counts: as much as the thread could have ended, if not even a lock kept it. */
import { describe, expect, it } from 'vitest';
import { ThreadProgress } from '../../src/flowserve/thread-progress.ts';
import { ownThreadId, type ThreadTimes, threadTimes, timesOfAll } from '../../src/runtime/os-thread.ts';

const WORKER = 2;
const OWN_ID = 17;
const HELPER_ID = 18;
const BEAT_MS = 50;

const ms = (run: number, wait: number, isRunnable: boolean): ThreadTimes => ({ run_ns: run * 1e6, wait_ns: wait * 1e6, isRunnable });
const ASLEEP = ms(5, 5, false);

/** The shares of beats, at each of which the worker's thread and a helper of the runtime are found so. */
function sharesOf(beats: readonly { readonly own: ThreadTimes | null; readonly helper?: ThreadTimes; readonly isAtBell?: boolean }[]): number[] {
  let beat = 0;
  const now = () => beats[beat] as (typeof beats)[number];
  const progress = new ThreadProgress({
    control: { progressOf: () => 0, osThreadOf: () => OWN_ID, isMarkedAsleep: () => now().isAtBell === true },
    now_ms: () => beat * BEAT_MS,
    timesOf: () => now().own,
    timesOfAll: () => new Map([...(now().own === null ? [] : [[OWN_ID, now().own as ThreadTimes] as const]), [HELPER_ID, now().helper ?? ASLEEP]]),
  });
  return beats.map((_, index) => {
    beat = index;
    return progress.of('task-executor/0', WORKER).share;
  });
}

describe('the share of a silence that counts', () => {
  it('should be all of it where the thread sleeps at its bell, or nobody knows', () => {
    const starved = ms(5, 5, true);
    const atBell = { own: ASLEEP, helper: starved, isAtBell: true };
    expect(sharesOf([atBell, atBell, atBell])).toEqual([0, 100, 100]);
    expect(sharesOf([{ own: null }, { own: null }])).toEqual([0, 100]);
  });

  it('should be what the thread was given where it is runnable', () => {
    expect(sharesOf([0, 10, 10, 40].map((run) => ({ own: ms(run, 0, true) })))).toEqual([0, 40, 0, 100]);
  });

  it('should be all of it where the thread sleeps elsewhere, such as for ever, and no thread of the process has to wait', () => {
    const own = ASLEEP;
    const busy = [0, 50, 100, 150].map((run) => ({ own, helper: ms(run, 0, true) }));
    expect(sharesOf(busy)).toEqual([0, 0, 100, 100]);
  });

  it('should be a fifth of it where whoever has the lock that the thread sleeps for is kept from a processor all the time, so that it ends', () => {
    const starved = { own: ASLEEP, helper: ms(3, 7, true) };
    expect(sharesOf([starved, starved, starved, starved])).toEqual([0, 0, 20, 20]);
  });

  it('should be less by the longest that any thread waited', () => {
    const waited = [0, 10, 40, 90].map((wait) => ({ own: ASLEEP, helper: ms(wait, wait, false) }));
    expect(sharesOf(waited)).toEqual([0, 0, 40, 20]);
  });
});

it.runIf(process.platform === 'linux')('a process knows all of its threads, and that this one runs', () => {
  const all = timesOfAll();
  expect(all.size).toBeGreaterThan(1);
  expect(all.get(ownThreadId())).toMatchObject({ isRunnable: true });
  expect(threadTimes(ownThreadId())?.run_ns).toBeGreaterThanOrEqual(all.get(ownThreadId())?.run_ns ?? Number.NaN);
});
