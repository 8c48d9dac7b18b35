/** Who is silent is given up in the life that was suspected, and in no other; who cannot be is told of for as long as it is silent. */
import { expect, it } from 'vitest';
import { Suspicions } from '../../src/platform/suspicions.ts';
import { suspected, trusted } from '../../src/protocol/heartbeats.ts';
import { ON_CONTROL } from '../../src/runtime/directory.ts';

function suspicionsOf(lives: number[]) {
  const given_up: number[] = [];
  const lost: string[] = [];
  const clock = { ms: 0 };
  const suspicions = new Suspicions({
    workerOf: (member) => (member === 'task-executor/0' ? ON_CONTROL : Number(member.split('/')[1])),
    lifeOf: (worker) => lives[worker] ?? 1,
    now_ms: () => clock.ms,
    suspect: (worker) => {
      if (worker === 2) return 'no_spare_seat';
      given_up.push(worker);
      return 'given_up';
    },
    loseControl: (reason) => lost.push(reason),
  });
  return { suspicions, given_up, lost, lives, clock };
}

it('a suspicion of a life that is over gives no successor up', () => {
  const { suspicions, given_up } = suspicionsOf([3, 1]);
  suspicions.hear(suspected('npu/0', 2, 250));
  expect([given_up, suspicions.report().counts]).toEqual([[], { given_up: 0, over: 1, no_spare_seat: 0, control_thread: 0 }]);
  suspicions.hear(suspected('npu/0', 3, 250));
  suspicions.hear(suspected('npu/1', 1, 250));
  expect([given_up, suspicions.report().counts.given_up]).toEqual([[0, 1], 2]);
  expect(suspicions.report().standing).toEqual([]);
});

it('who is silent and cannot be replaced is told of until it answers, or its life is over', () => {
  const { suspicions, given_up, lives } = suspicionsOf([1, 1, 5]);
  suspicions.hear(suspected('task-executor/0', 1, 250));
  suspicions.hear(suspected('npu/2', 5, 300));
  suspicions.hear(suspected('npu/2', 5, 600));
  expect(suspicions.report()).toEqual({
    counts: { given_up: 0, over: 0, no_spare_seat: 2, control_thread: 1 },
    standing: [
      { member: 'task-executor/0', why: 'control_thread', silent_ms: 250 },
      { member: 'npu/2', why: 'no_spare_seat', silent_ms: 600 },
    ],
  });
  lives[2] = 6;
  suspicions.hear(trusted('task-executor/0'));
  expect([given_up, suspicions.report().standing]).toEqual([[], []]);
});

it('who is silent on the control thread for ten seconds ends it', () => {
  const { suspicions, lost } = suspicionsOf([1]);
  suspicions.hear(suspected('task-executor/0', 1, 9_900));
  suspicions.hear(suspected('npu/0', 1, 20_000));
  expect(lost).toEqual([]);
  suspicions.hear(suspected('task-executor/0', 1, 10_100));
  expect(lost).toEqual([expect.stringContaining('task-executor/0')]);
});

it('who is suspected no more has answered, though who suspected it leads no more and does not say so', () => {
  const { suspicions, clock } = suspicionsOf([1]);
  suspicions.hear(suspected('task-executor/0', 1, 250));
  clock.ms = 9_000;
  suspicions.hear(suspected('task-executor/0', 1, 9_250));
  clock.ms = 18_000;
  expect(suspicions.report().standing).toMatchObject([{ silent_ms: 9_250 }]);
  clock.ms = 20_000;
  expect(suspicions.report().standing).toEqual([]);
});
