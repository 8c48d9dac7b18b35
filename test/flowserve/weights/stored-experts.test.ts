/** Experts read from the checkpoint while a pod runs: its files are open from the first of them until nothing is read any more. */
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { placeOfSlot } from '../../../src/flowserve/experts/expert-slots.ts';
import type { NpuLayout } from '../../../src/flowserve/layouts/npu-layout.ts';
import { storedExperts } from '../../../src/flowserve/weights/stored-experts.ts';
import { folderOf } from '../../golden/goldens.ts';
import { loadBareModel } from '../../golden/one-npu.ts';

/** Safetensors files that this process has open. */
function openFiles(): number {
  const linkOf = (descriptor: string): string => {
    try {
      return readlinkSync(join('/proc/self/fd', descriptor));
    } catch {
      return '';
    }
  };
  return readdirSync('/proc/self/fd').filter((descriptor) => linkOf(descriptor).endsWith('.safetensors')).length;
}

it.runIf(process.platform === 'linux')('should hold the files open while experts are read, and no longer', async () => {
  const folder = folderOf('tiny-deepseek-v3');
  const { plan, space, kernels } = await loadBareModel(folder);
  const layout = plan.layouts[0] as NpuLayout;
  const before = openFiles();
  const { read, close } = storedExperts(folder, plan.config, space, [kernels]);
  const layer = plan.config.layers - 1;
  const { address: to, bytes } = placeOfSlot(layout.expertSlots, layer, 2);
  const loaded = space.bytesAt(to, bytes).slice();
  space.bytesAt(to, bytes).fill(0);
  for (const reading = read(layout, { layer, expert: 2, slot: 2, to }); reading.next().done !== true; ) {
    // A tensor at a time.
  }
  expect(space.bytesAt(to, bytes)).toEqual(loaded);
  expect(openFiles()).toBe(before + 1);
  close();
  close();
  expect(openFiles()).toBe(before);
});
