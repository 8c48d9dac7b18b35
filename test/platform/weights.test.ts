/** What is told of weights while they are read, where several NPUs have the same. */
import { expect, it } from 'vitest';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments } from '../../src/fabric/memory-plan.ts';
import { planPod } from '../../src/flowserve/pod-plan.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { loadKernelModule } from '../../src/model/kernels/kernels.ts';
import { isMoeLayer } from '../../src/model/moe-layers.ts';
import { podOptionsSchema } from '../../src/options/options.ts';
import { loadWeights, type ProgressReport } from '../../src/platform/weights.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { TINY } from '../model/checkpoint-folder.ts';

it('progress is told where there is some, and what is read once more as a sign of life', async () => {
  using checkpoint = openCheckpoint(TINY['tiny-deepseek-v3']);
  const defaults = podOptionsSchema.parse({});
  const sizes = { kv_blocks: 8, max_queued: 1, job_executors: 1, npu_workers: undefined, memory_bytes: undefined, has_rings: false };
  const plan = planPod(checkpoint, { ...defaults, ...sizes, topology: parseTopology('pd:prefill=1,decode=1') });
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  const reports: ProgressReport[] = [];
  const signs: number[] = [];
  await loadWeights(checkpoint, plan, space, await loadKernelModule(), {
    onProgress: async (report) => void reports.push(report),
    onRepeat: () => void signs.push(reports.at(-1)?.loaded_bytes ?? 0),
  });
  const loaded = reports.map(({ loaded_bytes }) => loaded_bytes);
  expect(loaded).toEqual([...new Set(loaded)].sort((a, b) => a - b));
  const total = reports[0]?.total_bytes;
  expect(loaded.at(-1)).toBe(total);
  // The second executor's experts.
  const moeLayers = Array.from({ length: plan.config.layers }, (_, layer) => layer).filter((layer) => isMoeLayer(plan.config, layer));
  expect(signs.length).toBeGreaterThanOrEqual(plan.config.moe.experts * moeLayers.length);
  expect(moeLayers.length).toBeGreaterThan(0);
  expect(new Set(signs)).toEqual(new Set([total]));
});
