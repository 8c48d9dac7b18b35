import { describe, expect, it } from 'vitest';
import { deploy, parseTopology } from '../../src/protocol/topology.ts';
import { Directory, dealtOut } from '../../src/runtime/directory.ts';

const directoryOf = (topology: string, workers: number, job_executors: number): Directory => {
  const deployment = deploy(parseTopology(topology));
  return new Directory({ deployment, workers, spare_workers: 0, worker_of_npu: dealtOut(deployment.npus.length, workers), job_executors });
};
const hostsOf = (directory: Directory, job_executors: number): number[] =>
  Array.from({ length: job_executors }, (_, id) => directory.hostOf(`job-executor/${id}`));

describe('job executors', () => {
  it('should live on the control thread and then on each worker in turn', () => {
    expect(hostsOf(directoryOf('colocated:dp=3', 3, 5), 5)).toEqual([-1, 0, 1, 2, 0]);
  });

  it('should live with NPUs that do prefill alone only where there is nobody else: those hear nothing while a step runs', () => {
    expect(hostsOf(directoryOf('pd:prefill=1,decode=1', 2, 3), 3)).toEqual([-1, 1, 0]);
    expect(hostsOf(directoryOf('pd:prefill=2,decode=2', 4, 5), 5)).toEqual([-1, 2, 3, 0, 1]);
    expect(hostsOf(directoryOf('mixed:colocated=1,prefill=1,decode=1', 3, 4), 4)).toEqual([-1, 0, 2, 1]);
    expect(hostsOf(directoryOf('pd:prefill=1,decode=1', 1, 2), 2)).toEqual([-1, 0]);
  });
});
