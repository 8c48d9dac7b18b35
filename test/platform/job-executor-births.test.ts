/** Job executors that know nothing of one another share task executors out evenly. */
import { expect, it } from 'vitest';
import { ExecutorChoice, type ExecutorSeat } from '../../actors/policies/executor-choice.ts';
import { planPod } from '../../src/flowserve/pod-plan.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { podOptionsSchema } from '../../src/options/options.ts';
import { birthOfController } from '../../src/platform/births.ts';
import { address } from '../../src/protocol/address.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { TINY } from '../model/checkpoint-folder.ts';

/** Choices by task executor, of a pod of so many where each job executor has taken as many requests as told. */
function choicesOf(executors: number, requests: readonly number[]): number[] {
  using checkpoint = openCheckpoint(TINY['tiny-deepseek-v3']);
  const sizes = { kv_blocks: 8, max_queued: 1, npu_workers: undefined, memory_bytes: undefined, has_rings: false };
  const hosts = { workers: executors, job_executors: requests.length, topology: parseTopology(`mixed:colocated=${executors}xdp1`) };
  const plan = planPod(checkpoint, { ...podOptionsSchema.parse({}), ...sizes, ...hosts });
  const choices = new Map<string, number>(Array.from({ length: executors }, (_, id) => [address('task-executor', id), 0]));
  for (const [id, count] of requests.entries()) {
    const { input } = birthOfController(address('job-executor', id), plan, 0);
    const choice = new ExecutorChoice((input as { readonly executors: readonly ExecutorSeat[] }).executors);
    for (let request = 0; request < count; request++)
      for (const { executor } of choice.take(address('request', request), 1, -1)) choices.set(executor, (choices.get(executor) ?? 0) + 1);
  }
  return [...choices.values()];
}

it('should give two task executors as many requests, however sixteen of them fall to two job executors', () => {
  for (let first = 0; first <= 16; first++) expect(choicesOf(2, [first, 16 - first])).toEqual([8, 8]);
});

it('should give four task executors as many requests, where each of two job executors has two left over', () => {
  expect(choicesOf(4, [6, 10])).toEqual([4, 4, 4, 4]);
});
