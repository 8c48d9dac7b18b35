/** How often what computes a request may be lost under it. */
import { describe, expect, it } from 'vitest';
import { getNextSnapshot, initialTransition } from 'xstate';
import { request } from '../../actors/request.ts';
import { NO_TERMS } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { RequestMessage, Sequence } from '../../src/protocol/messages.ts';
import { GREEDY } from '../golden/greedy.ts';

const PLACEMENT = { executor: 'task-executor/0', stage: 'whole' } as const;
const LOST = { type: 'JOB_FAILED', error: { code: 'worker_lost', message: 'worker 1 failed', param: null } } as RequestMessage;
const STARTED = [{ type: 'JOB_PLACED' }, { type: 'JOB_RUNNING' }] as RequestMessage[];

const sequencesWith = (tokens: number): readonly Sequence[] => [
  { ...NO_TERMS, request: 1, choice: 0, prompt: [1], output: Array.from({ length: tokens }, () => 7), max_tokens: 90, sampling: GREEDY } as unknown as Sequence,
];
const replacedWith = (tokens: number): RequestMessage =>
  ({ type: 'REPLACED', sequences: sequencesWith(tokens), placements: [PLACEMENT], error: null }) as unknown as RequestMessage;

/** One that was let in. What it is told leads to the snapshot that is returned. */
function admitted() {
  const input = { self: 'request/1', job_executor: 'job-executor/0', job: 'job/1', sequences: sequencesWith(0), deadline_ms: -1, placements: [] } as const;
  let [snapshot] = initialTransition(request, input);
  const tell = (message: RequestMessage): typeof snapshot => {
    snapshot = getNextSnapshot(request, snapshot, message);
    return snapshot;
  };
  tell({ type: 'ADMITTED', placements: [PLACEMENT] } as unknown as RequestMessage);
  return tell;
}

/** What becomes of a request that is lost so often, of which it has so many tokens each time. */
function endAfter(tokens: readonly number[], { isRunning }: { readonly isRunning: boolean }) {
  const tell = admitted();
  let end = { state: '', error: null as ErrorRecord | null };
  for (const count of tokens) {
    if (isRunning) for (const message of STARTED) tell(message);
    tell(LOST);
    const { value, context } = tell(replacedWith(count));
    end = { state: JSON.stringify(value), error: context.error };
  }
  return end;
}

const GOES_ON = { state: '{"held":"admitted"}', error: null };
const SUSPECT = {
  state: '"failed"',
  error: { code: 'worker_failed', message: expect.stringContaining('without a token in between, so it may be the cause; the last time: worker 1 failed') },
};

describe('a request whose NPU is lost', () => {
  it('should go on as often as it comes further in between', () => {
    expect(endAfter([1, 2, 3, 4, 5, 6, 7, 8, 9], { isRunning: true })).toEqual(GOES_ON);
    expect(endAfter([0, 0, 1, 1, 2, 2, 3], { isRunning: true })).toEqual(GOES_ON);
  });

  it('should fail at the third time in a row: it may be what kills, and six deaths would end the pod', () => {
    expect(endAfter([0, 0], { isRunning: true })).toEqual(GOES_ON);
    expect(endAfter([0, 0, 0], { isRunning: true })).toMatchObject(SUSPECT);
    expect(endAfter([4, 4], { isRunning: true })).toEqual(GOES_ON);
    expect(endAfter([4, 4, 4], { isRunning: true })).toMatchObject(SUSPECT);
  });

  it('should not be suspect for losses of others, whether or not it comes further in between', () => {
    const ended = { type: 'JOB_FAILED', error: { code: 'worker_ended', message: 'worker 1 was lost, and all begin anew', param: null } } as RequestMessage;
    const tell = admitted();
    for (const [count, loss] of [ended, ended, LOST, LOST].entries()) {
      for (const message of STARTED) tell(message);
      tell(loss);
      tell(replacedWith(Math.min(count, 1)));
    }
    expect(tell({ type: 'JOB_PLACED' } as RequestMessage).context.suspicion).toBe(4);
  });

  it('should not go on where its caller has gone, or its time was over, a moment before', () => {
    const told = (last: RequestMessage): string => {
      const tell = admitted();
      tell({ type: 'JOB_PLACED' } as RequestMessage);
      tell(last);
      return JSON.stringify(tell(LOST).value);
    };
    expect(told({ type: 'CANCEL' } as RequestMessage)).toBe('"cancelled"');
    expect(told({ type: 'DEADLINE_PASSED' } as RequestMessage)).toBe('"failed"');
  });

  it('should fail at the fifth where nobody knows that it was computed', () => {
    expect(endAfter([0, 0, 0, 0], { isRunning: false })).toEqual(GOES_ON);
    expect(endAfter([0, 0, 0, 0, 0], { isRunning: false })).toMatchObject(SUSPECT);
  });
});
