/** Looks for tokens as seldom as steps allow, and as often as they ask for. */
import { expect, it } from 'vitest';
import { CallerNaps, NAP_BEHIND_STEP_MS, NAP_MS } from '../../src/calls/caller-naps.ts';
import { CONTROL_THREAD } from '../../src/runtime/directory.ts';

const [A, B] = [CONTROL_THREAD + 1, CONTROL_THREAD + 2];

/** Lengths of naps, each behind looks that found frames of those threads. */
function napsBehind(...naps: readonly (readonly number[])[][]): number[] {
  const caller = new CallerNaps();
  return naps.map((looks) => {
    for (const threads of looks) {
      caller.look();
      for (const thread of threads) caller.hear(thread);
    }
    return caller.next_ms();
  });
}

it('should nap longer behind one step of each worker, whichever look found it, and once only', () => {
  expect(napsBehind([[]], [[A, B], []], [[]], [[A], [B], []], [[]])).toEqual([NAP_MS, NAP_BEHIND_STEP_MS, NAP_MS, NAP_BEHIND_STEP_MS, NAP_MS]);
});

it('should not nap longer where steps are quicker than its naps', () => {
  expect(napsBehind([[A, A], []], [[A, A, B], []], [[A, A], [B], []], [[A], []])).toEqual([NAP_MS, NAP_MS, NAP_MS, NAP_BEHIND_STEP_MS]);
});

it('should not nap longer for what the control thread says', () => {
  expect(napsBehind([[CONTROL_THREAD], []], [[CONTROL_THREAD, CONTROL_THREAD, A], []])).toEqual([NAP_MS, NAP_BEHIND_STEP_MS]);
});
