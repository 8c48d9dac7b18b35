/** Rows that are computed again for what is made of them: what others read in their place is not written again, and neither is it a new content. */
import { describe, expect, it } from 'vitest';
import type { AddressSpace } from '../../../src/fabric/address-space.ts';
import type { Arithmetic } from '../../../src/flowserve/forward/arithmetic.ts';
import type { StepProgram } from '../../../src/flowserve/steps/step-program.ts';
import type { StepEntry } from '../../../src/protocol/steps.ts';
import { folderOf } from '../../golden/goldens.ts';
import { greedySequence } from '../../golden/greedy.ts';
import { loadBareModel } from '../../golden/one-npu.ts';
import { makeHashPod } from '../hash-rig.ts';

type Pod = { readonly space: AddressSpace; readonly programs: readonly StepProgram<Arithmetic>[] };

const [SHARED, OWN, STAND_IN] = [5, 7, 9];
const NOTHING = { generated: 0, drafts: 0, foresees: -1, output: [] } as const;

/** A sequence whose first block a second one begins with, which computes the last position of that once more. */
function makeReaders({ space, programs }: Pod) {
  const program = programs[0] as StepProgram<Arithmetic>;
  const { kv } = program.forward.layout;
  const { block_size } = kv;
  const prompt = Array.from({ length: block_size + 4 }, (_, at) => 3 + at);
  let number = 0;
  const step = (entry: Pick<StepEntry, 'slot' | 'start' | 'tokens' | 'blocks' | 'shared' | 'kept'>): void => {
    const attach = greedySequence(entry.slot, prompt, 4);
    program.start({ step: ++number, after: 0, detach: [], entries: [{ ...NOTHING, ...entry, first_block: 0, samples: true, attach }] });
    while (program.poll().state !== 'done') {
      // Nobody else is asked.
    }
  };
  step({ slot: 0, start: 0, tokens: prompt, blocks: [SHARED, 0], shared: 0 });
  const bytes = space.bytesAt(kv.address + SHARED * kv.block_bytes, kv.layers * kv.layer_bytes);
  return { program, step, bytes, block_size, prompt };
}

const PODS = [
  ['the hash model', () => Promise.resolve(makeHashPod(1))],
  ['multi-head latent attention', () => loadBareModel(folderOf('tiny-deepseek-v3'))],
  ['grouped queries', () => loadBareModel(folderOf('tiny-qwen3-moe'))],
] as const;

describe.each(PODS)('rows that are kept: %s', (_, makePod) => {
  it('should not be written', async () => {
    const { step, bytes, program, block_size, prompt } = makeReaders(await makePod());
    bytes.fill(7);
    const generation = program.blocks.generationOf(SHARED);
    const again = { start: block_size - 2, tokens: prompt.slice(block_size - 2), shared: 1 };
    step({ ...again, slot: 1, blocks: [SHARED, OWN], kept: 2 });
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    expect(program.blocks.generationOf(SHARED)).toBe(generation);
    // Nor where the last layer goes on with one of them alone.
    step({ slot: 3, start: block_size - 2, tokens: prompt.slice(block_size - 2, block_size), shared: 1, blocks: [SHARED], kept: 2 });
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    // As they were before such rows were kept.
    step({ ...again, slot: 2, blocks: [SHARED, OWN + 1] });
    expect(bytes.every((byte) => byte === 7)).toBe(false);
  });
});

it('should be another content of a block that stands in for one that went bad, though it is held as those are that others share', () => {
  const { step, program, block_size, prompt } = makeReaders(makeHashPod(1));
  const generation = program.blocks.generationOf(STAND_IN);
  step({ slot: 1, start: 0, tokens: prompt.slice(0, block_size), blocks: [STAND_IN, OWN], shared: 1 });
  expect(program.blocks.generationOf(STAND_IN)).toBe(generation + 1);
});
