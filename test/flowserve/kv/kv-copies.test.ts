/** Copies between the tiers of KV: the very blocks, whole, and how much that was. */
import { expect, it } from 'vitest';
import { KvCopies } from '../../../src/flowserve/kv/kv-copies.ts';
import { Directory } from '../../../src/runtime/directory.ts';
import { makeHashPod } from '../hash-rig.ts';

it('bring blocks to DRAM and back, to each rank, and count the bytes that moved', () => {
  const { plan, space } = makeHashPod(1, { dram_blocks: 4 });
  const [layout] = plan.layouts;
  const { kv } = layout?.kind === 'attention' ? layout : expect.fail();
  const copies = new KvCopies({ plan, space, directory: new Directory(plan.hosting) }, new Map(), () => null);
  const block = (index: number): Uint8Array => space.bytesAt(kv.address + index * kv.block_bytes, kv.block_bytes);
  for (const index of [3, 5]) block(index).fill(index);
  const [hbm, dram] = [
    { tier: 'hbm', blocks: [3, 5] },
    { tier: 'dram', blocks: [2, 0] },
  ] as const;
  expect(copies.perform([0], { id: 1, kind: 'swap-out', from: hbm, to: dram })).toBe(2 * kv.block_bytes);
  for (const index of [3, 5]) block(index).fill(0);
  expect(copies.perform([0], { id: 2, kind: 'swap-in', from: dram, to: { tier: 'hbm', blocks: [7, 8] } })).toBe(2 * kv.block_bytes);
  expect([7, 8].map((index) => new Set(block(index)))).toEqual([new Set([3]), new Set([5])]);
});
