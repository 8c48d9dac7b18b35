/** What a job executor tells those whom it cannot take in. */
import { expect, it } from 'vitest';
import { jobExecutor } from '../../actors/job-executor.ts';
import { PERIOD_MS } from '../../actors/policies/throughput.ts';
import { address } from '../../src/protocol/address.ts';
import { admit, executorReady, leave, measureThroughput } from '../../src/protocol/constructors.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { Cast } from '../../src/runtime/cast.ts';
import { ChoicesInPod } from './choices-in-pod.ts';

const SELF = 'job-executor/0';
const CHOICES_MAX = 10;

it('a refusal says when there is probably room, by how fast choices leave, and nothing is measured while nobody leaves', () => {
  const sent: Message[] = [];
  const timers: Commands['after'][] = [];
  const pod = new ChoicesInPod();
  const cast = new Cast({
    birthOf: () => null,
    hands: new Map(),
    send: ({ message }) => sent.push(message),
    startTimer: (_owner, timer) => timers.push(timer),
    ...{ cancelTimer: () => {}, cancelTimers: () => {}, launch: () => {}, transfer: () => {} },
    claim: (to, claim) => {
      const message = pod.claim(claim);
      if (message !== null) cast.deliver({ to, from: to, message, cause: 0 });
    },
    onUnexpected: (to, message) => expect([to, message]).toBeNull(),
  });
  const executors = [{ address: address('task-executor', 0), role: 'colocated', npus: 1 }] as const;
  cast.spawn(SELF, { machine: jobExecutor, input: { self: SELF, life: 1, managers: [], choices_max: CHOICES_MAX, executors } });
  const deliver = (message: Message): Message | undefined => {
    cast.deliver({ to: SELF, from: 'request/1', message, cause: 0 });
    return sent.pop();
  };
  deliver(executorReady('task-executor/0'));
  let [came, left] = [0, 0];
  const come = (): Message | undefined => deliver(admit(address('request', came), 1, -1));
  while (came < CHOICES_MAX) {
    expect(come()).toMatchObject({ type: 'ADMITTED' });
    came++;
  }
  const waitFor = (choices: number): unknown => {
    const refusal = deliver(admit('request/9999', choices, -1));
    expect(refusal).toMatchObject({ type: 'REFUSED', error: { code: 'overloaded', message: expect.stringContaining('max_queued') } });
    return (refusal as { readonly error: { readonly retry_after_ms: number } }).error.retry_after_ms;
  };
  expect([waitFor(1), timers]).toEqual([1_000, []]);
  // So many leave in each period, and others come.
  for (let period = 0; period < 8; period++) {
    for (let count = 0; count < 5; count++) {
      deliver(leave(address('request', left++), 1));
      come();
      came++;
    }
    expect(timers.splice(0)).toMatchObject([{ delay_ms: PERIOD_MS, message: { type: 'MEASURE_THROUGHPUT' } }]);
    deliver(measureThroughput());
  }
  expect([waitFor(1), waitFor(5), waitFor(10)]).toEqual([200, 1_000, 2_000]);
  expect(timers).toEqual([]);
  expect(deliver(admit('request/9999', CHOICES_MAX + 1, -1))).toMatchObject({ type: 'REFUSED', error: { code: 'invalid_request', param: 'n' } });
});
