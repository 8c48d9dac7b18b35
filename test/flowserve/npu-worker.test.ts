/** What a worker's thread does last. */
import { afterEach, expect, it, vi } from 'vitest';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { Links } from '../../src/fabric/links.ts';
import { allocateSegments } from '../../src/fabric/memory-plan.ts';
import { FRAME_KIND } from '../../src/fabric/ring.ts';
import { NpuWorker } from '../../src/flowserve/npu-worker.ts';
import { type PlanOptions, planPod } from '../../src/flowserve/pod-plan.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { loadKernelModule } from '../../src/model/kernels/kernels.ts';
import { resolveModel } from '../../src/model/registry.ts';
import { loadTokenizer } from '../../src/model/tokenizer.ts';
import { packVocabulary } from '../../src/model/vocabulary.ts';
import { birthOf, birthOfController } from '../../src/platform/births.ts';
import { colocated } from '../../src/protocol/topology.ts';
import { PROTOCOL_HASH } from '../../src/protocol/wire.ts';
import { CONTROL_THREAD, Directory, threadsOf } from '../../src/runtime/directory.ts';

const ONE_WORKER: PlanOptions = {
  ...{ topology: colocated(1), workers: 1, spare_workers: 0, job_executors: 1, max_queued: 16, kv_blocks: 16, kv_block_size: 16, max_batch_tokens: 16 },
  ...{ max_batch_requests: 4, segment_bytes: 2 ** 32 - 65_536, memory_bytes: undefined, prefix_caching: true, async_scheduling: false },
  ...{ scheduling_policy: 'fcfs', load_balancing: 'auto', long_prompt_groups: 0, long_prompt_tokens: 1, kv_transfer: 'request' },
  enforce_eager: false,
};

afterEach(() => vi.restoreAllMocks());

it('should lie still when it has failed and been heard of, and has acknowledged its end: clearing up after it takes processors from its successor', async () => {
  const folder = resolveModel('tiny-deepseek-v3');
  using checkpoint = openCheckpoint(folder);
  const vocabulary = packVocabulary(await loadTokenizer(folder));
  const plan = planPod(checkpoint, { ...ONE_WORKER, vocabulary_bytes: vocabulary.length });
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  space.bytesAt(space.region('pod', 'vocabulary').base, vocabulary.length).set(vocabulary);
  const { seating } = new Directory(plan.hosting);
  const thread = seating.threads[0] as number;
  const epochs = Array.from({ length: threadsOf(plan.hosting) }, (_, index) => space.control.epochOf(index));
  const worker = new NpuWorker(
    {
      ...{ plan, worker: 0, life: 1, seating, lost: [], epochs, die_epochs: [space.control.epochOfDie(0)], layouts: plan.layouts, kv_lines: [] },
      ...{ memories: space.memories, module: await loadKernelModule(), folder, origin_ms: 0, protocol: PROTOCOL_HASH, isTraced: false },
    },
    { birthOf, birthOfController },
    undefined,
    undefined,
    [],
  );
  const still: boolean[] = [];
  vi.spyOn(Atomics, 'wait').mockImplementation(() => {
    still.push(space.control.hasAcknowledged(thread));
    return 'timed-out';
  });
  const control = new Links(CONTROL_THREAD, space.memories[0] as WebAssembly.Memory, plan.rings, space.control);
  // No message, which is a fault of its own.
  const upset = (): void => {
    control.send(thread, 'control', { kind: FRAME_KIND.message, source: 0, destination: 0, roles: 0 }, Uint8Array.of(0xc1));
    control.flush();
  };
  upset();
  expect(() => worker.run()).toThrow();
  expect(still).toEqual([true]);
  let heard = 0;
  control.receive(() => heard++);
  expect(heard).toBe(1);
  // Nobody has heard of it: its end alone tells.
  upset();
  const waits = vi.spyOn(Links.prototype, 'flush').mockReturnValue(true);
  expect(() => worker.run()).toThrow();
  waits.mockRestore();
  expect(still).toEqual([true]);
  space.control.stop(thread);
  worker.run();
  expect(still).toEqual([true]);
});
