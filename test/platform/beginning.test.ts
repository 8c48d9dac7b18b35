/** A control thread that begins and comes no further is found by its caller's thread; one that is slow is not. */
import { expect, it } from 'vitest';
import { BEGINNING_MS_MAX, BeginningWatch, makeBeginning, setAlive, setLoaded, setRunning } from '../../src/platform/beginning.ts';

const LOOK_MS = 250;

/** Looks for so long from then on; it has come no further meanwhile. */
function watchFor(watch: BeginningWatch, from_ms: number, ms: number): void {
  for (let now_ms = from_ms; now_ms <= from_ms + ms; now_ms += LOOK_MS) watch.check(now_ms);
}

it.each<[string, (beginning: Int32Array) => void, RegExp]>([
  ['does not run', () => {}, /has not begun: for 120\.3 s it has not run/],
  ['hangs before it loads', setRunning, /has loaded no more than 0 % of its weights/],
  ['hangs while it loads', (beginning) => setLoaded(beginning, { loaded_bytes: 2, total_bytes: 5, tensor: 'x' }), /no more than 40 % of its weights/],
  ['hangs then', (beginning) => setLoaded(beginning, { loaded_bytes: 5, total_bytes: 5, tensor: 'x' }), /its recorders or its workers have not begun/],
])('one that %s', (_, reach, why) => {
  const beginning = makeBeginning();
  const watch = new BeginningWatch(beginning);
  reach(beginning);
  watchFor(watch, 0, BEGINNING_MS_MAX);
  expect(() => watch.check(BEGINNING_MS_MAX + LOOK_MS)).toThrow(why);
});

it('one that comes further has as long again', () => {
  const beginning = makeBeginning();
  const watch = new BeginningWatch(beginning);
  watchFor(watch, 0, BEGINNING_MS_MAX);
  setRunning(beginning);
  watchFor(watch, BEGINNING_MS_MAX + LOOK_MS, BEGINNING_MS_MAX);
});

it('one that reads the same weights for one NPU after the other', () => {
  const beginning = makeBeginning();
  const watch = new BeginningWatch(beginning);
  setLoaded(beginning, { loaded_bytes: 5, total_bytes: 5, tensor: 'x' });
  for (let npu = 0; npu < 3; npu++) {
    setAlive(beginning);
    watchFor(watch, npu * (BEGINNING_MS_MAX + LOOK_MS), BEGINNING_MS_MAX);
  }
});
