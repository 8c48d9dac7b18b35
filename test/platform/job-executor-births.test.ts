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

/** Choices by task executor, where each job executor has taken as many requests as told; `decoding`: each has gone on to decode. */
function choicesOf(topology: string, requests: readonly number[], decoding = false): number[] {
  using checkpoint = openCheckpoint(TINY['tiny-deepseek-v3']);
  const sizes = { kv_blocks: 8, max_queued: 1, npu_workers: undefined, memory_bytes: undefined, has_rings: false };
  const hosts = { workers: 2, job_executors: requests.length, topology: parseTopology(topology) };
  const plan = planPod(checkpoint, { ...podOptionsSchema.parse({}), ...sizes, ...hosts });
  const choices = new Map<string, number>(plan.hosting.deployment.executors.map(({ id }) => [address('task-executor', id), 0]));
  for (const [id, count] of requests.entries()) {
    const { input } = birthOfController(address('job-executor', id), plan, 0);
    const choice = new ExecutorChoice((input as { readonly executors: readonly ExecutorSeat[] }).executors);
    for (let number = 0; number < count; number++) {
      const request = address('request', number);
      for (const { executor } of choice.take(request, 1, -1)) {
        const chosen = decoding ? (choice.moveToDecode(request, executor) as string) : executor;
        choices.set(chosen, (choices.get(chosen) ?? 0) + 1);
      }
    }
  }
  return [...choices.values()];
}

it('should give two task executors as many requests, however sixteen of them fall to two job executors', () => {
  for (let first = 0; first <= 16; first++) expect(choicesOf('mixed:colocated=2xdp1', [first, 16 - first])).toEqual([8, 8]);
});

it('should give four task executors as many requests, where each of two job executors has two left over', () => {
  expect(choicesOf('mixed:colocated=4xdp1', [6, 10])).toEqual([4, 4, 4, 4]);
});

it('should share out those that prefill, and those that decode, each evenly', () => {
  expect(choicesOf('pd:prefill=2xdp1,decode=2xdp1', [7, 9])).toEqual([8, 8, 0, 0]);
  expect(choicesOf('pd:prefill=2xdp1,decode=2xdp1', [7, 9], true)).toEqual([0, 0, 8, 8]);
  expect(choicesOf('mixed:colocated=1xdp1,prefill=1xdp1,decode=2xdp1', [7, 9])).toEqual([8, 8, 0, 0]);
});
