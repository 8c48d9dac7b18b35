/** What a lost job executor leaves is taken over once, by those that have the least of that to do. */
import { describe, expect, it } from 'vitest';
import { ClusterMembers } from '../../actors/policies/cluster-members.ts';
import { memberLife } from '../../src/protocol/constructors.ts';

const serving = (...ids: number[]): ClusterMembers => {
  const members = new ClusterMembers();
  for (const id of ids) members.ready(memberLife(`job-executor/${id}`, 1));
  return members;
};
const lose = (members: ClusterMembers, ...ids: number[]): void => {
  for (const id of ids) members.lost(memberLife(`job-executor/${id}`, 1));
};

describe('lost job executors', () => {
  it('should be spread over those that serve, of equals the first', () => {
    const members = serving(0, 1, 2, 3, 4);
    lose(members, 2, 3, 4);
    const takers = (): unknown[] => members.assign().map(({ member, taker }) => [member, taker]);
    expect(takers()).toEqual([
      ['job-executor/2', 'job-executor/0'],
      ['job-executor/3', 'job-executor/1'],
      ['job-executor/4', 'job-executor/0'],
    ]);
    expect(takers()).toEqual([]);
  });

  it('should be asked for again where their taker is lost, and by a leader that begins', () => {
    const members = serving(0, 1, 2);
    lose(members, 2);
    members.assign();
    lose(members, 0);
    expect(members.assign().map(({ member, taker }) => [member, taker])).toEqual([
      ['job-executor/2', 'job-executor/1'],
      ['job-executor/0', 'job-executor/1'],
    ]);
    members.takenOver(memberLife('job-executor/2', 1));
    expect(members.assignAnew().map(({ member }) => member)).toEqual(['job-executor/0']);
  });

  it('should wait for one to serve where there is none', () => {
    const members = serving(0);
    lose(members, 0);
    expect(members.assign()).toEqual([]);
    members.ready(memberLife('job-executor/0', 1));
    // That life is over, whoever says that it is ready.
    expect(members.jobExecutors).toEqual([]);
    members.ready(memberLife('job-executor/0', 2));
    expect(members.assign()).toEqual([{ ...memberLife('job-executor/0', 1), taker: 'job-executor/0' }]);
  });
});
