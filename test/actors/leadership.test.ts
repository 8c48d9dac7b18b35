/** Who leads the DP groups of a task executor, what he hears, and from when on nobody believes who led before. */
import { expect, it } from 'vitest';
import type { GroupSeat } from '../../actors/policies/group-choice.ts';
import { leading } from '../../actors/policies/leadership.ts';
import { TaskPlacement } from '../../actors/policies/placement.ts';
import { address, idOf } from '../../src/protocol/address.ts';

/** An executor of three groups, of which these serve, and one that changes: what whoever leads, or led, is told. */
function executor(...serving: readonly number[]) {
  const seats = [0, 1, 2].map((group): GroupSeat => ({ group, worker: group, npus: [group] }));
  const placement = new TaskPlacement(seats, 4, 'cost_model');
  for (const npu of serving) placement.ready(npu);
  let [leader, term] = [-1, 0];
  return {
    placement,
    want: (task: number) => {
      const wanted = { task: address('task', task), prompt_tokens: 3, marks: [], priority: 0 };
      placement.place({ task: wanted.task, data_parallel_rank: -1, kv_positions: 8, wanted });
    },
    told: (): string[] => {
      const next = leading({ self: 'task-executor/0', placement, hasLeader: true, leader, term, samples: [], long: { tokens: 8192, groups: 0 } });
      [leader, term] = [next.leader, next.term];
      return next.sends.map(({ to, message }) => {
        if (message.type === 'LEAD') return `${to} leads ${message.groups.join()} in term ${message.term}`;
        return message.type === 'GROUP_WANTED' ? `${to} finds a group for ${message.wanted.task}` : message.type;
      });
    },
    leader: () => leader,
  };
}

it('is the first group that serves, which is told of who waits', () => {
  const { want, told } = executor(1, 2);
  want(7);
  expect(told()).toEqual(['dp-group/1 leads 1,2 in term 1', 'dp-group/1 finds a group for task/7']);
});

it('stays whoever leads, and is told who serves now', () => {
  const { placement, told } = executor(1, 2);
  told();
  placement.ready(0);
  expect(told()).toEqual(['dp-group/1 leads 0,1,2 in term 1']);
  placement.lost(2);
  expect(told()).toEqual(['dp-group/1 leads 0,1 in term 1']);
});

it('is the next one in a later term where he is lost, and nobody where none serves', () => {
  const { placement, want, told, leader } = executor(0, 2);
  told();
  want(7);
  placement.lost(0);
  expect(told()).toEqual(['dp-group/0 leads  in term 2', 'dp-group/2 leads 2 in term 2', 'dp-group/2 finds a group for task/7']);
  placement.lost(2);
  expect([told(), leader()]).toEqual([['dp-group/2 leads  in term 3'], -1]);
  placement.ready(0);
  expect([told(), idOf('dp-group/0')]).toEqual([['dp-group/0 leads 0 in term 4', 'dp-group/0 finds a group for task/7'], leader()]);
});
