/** Graph mode against eager mode: the same bits whatever the batch, and how often what is launched and captured. */

import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import { SLOT_SHIFT } from '../../../src/flowserve/experts/expert-slots.ts';
import { attentionLayouts } from '../../../src/flowserve/layouts/step-layout.ts';
import { DecodeGraphs } from '../../../src/flowserve/steps/decode-graphs.ts';
import { instantiateKernels, KERNEL_NAMES, type Kernels, loadKernelModule } from '../../../src/model/kernels/kernels.ts';
import { KernelRecorder } from '../../../src/model/kernels/program.ts';
import { colocated, parseTopology } from '../../../src/protocol/topology.ts';
import { folderOf, MODELS } from '../../golden/goldens.ts';
import { type BareModel, generateGreedily, loadBareModel } from '../../golden/one-npu.ts';
import { runs } from '../../property-runs.ts';
import { type Call, generate, makeHashPod, SHAPE } from '../hash-rig.ts';

const VOCABULARY = 2_048;

const calls = (npus: number, count: { readonly min: number; readonly max: number } = { min: 1, max: 7 }): fc.Arbitrary<Call[]> =>
  fc.array(
    fc.record({
      npu: fc.nat(npus - 1),
      prompt: fc.array(fc.nat(VOCABULARY - 1), { minLength: 1, maxLength: 40 }),
      max_tokens: fc.integer({ min: 1, max: 9 }),
      sampling: fc.record({ temperature: fc.constantFrom(0, 1), seed: fc.nat(), presence_penalty: fc.constantFrom(0, 0.5) }),
    }),
    { minLength: count.min, maxLength: count.max },
  );

/** All KV cells, and the logits of the last steps. */
function results({ plan, space }: BareModel): Buffer[] {
  return attentionLayouts(plan.layouts).flatMap(({ kv, scratch }) => [
    Buffer.from(space.bytesAt(kv.address, kv.blocks * kv.block_bytes)),
    Buffer.from(space.bytesAt(scratch.logits, VOCABULARY * 4)),
  ]);
}

describe('decode in graph mode', () => {
  it.each([
    ...MODELS.map((name) => ({ name, text: 'colocated:dp=1' })),
    ...MODELS.map((name) => ({ name, text: 'colocated:dp=3' })),
    { name: 'tiny-deepseek-v3' as const, text: 'colocated:dp=2,tp=2' },
    { name: 'tiny-qwen3-moe' as const, text: 'colocated:dp=1,tp=4' },
    { name: 'tiny-kimi-k2' as const, text: 'colocated:dp=3,oproj=3' },
  ])('should compute the bits of eager mode: $name, $text', async ({ name, text }) => {
    const options = { topology: parseTopology(text), kv_blocks: 64, max_batch_tokens: 48 };
    const [eager, graph] = [await loadBareModel(folderOf(name), { ...options, enforce_eager: true }), await loadBareModel(folderOf(name), options)];
    fc.assert(
      fc.property(calls(eager.programs.length), (asked) => {
        const [expected, got] = [generate(eager, asked), generate(graph, asked)];
        expect(got).toEqual(expected);
        expect(got.digests.length).toBeGreaterThan(0);
        for (const [index, bytes] of results(eager).entries()) expect(Buffer.compare(bytes, results(graph)[index] as Buffer)).toBe(0);
      }),
      { numRuns: runs(5) },
    );
  });

  it.each([
    { name: 'tiny-deepseek-v3' as const, text: 'moe-attention:domains=1x1,experts=2', schedule: 'dataflow' as const },
    { name: 'tiny-kimi-k2' as const, text: 'moe-attention:domains=1x1,experts=1,shared=attention', schedule: 'dataflow' as const },
    { name: 'tiny-kimi-k2' as const, text: 'moe-attention:domains=1x2,experts=3', schedule: 'domains' as const },
    { name: 'tiny-qwen3-moe' as const, text: 'moe-attention:domains=2x1,experts=2', schedule: 'domains' as const },
  ])('should compute the bits of eager mode in two micro-batches: $name, $text, $schedule', async ({ name, text, schedule }) => {
    const options = { topology: parseTopology(text), schedule, micro_batches: 2 as const, kv_blocks: 64, max_batch_tokens: 48 };
    const [eager, graph] = [await loadBareModel(folderOf(name), { ...options, enforce_eager: true }), await loadBareModel(folderOf(name), options)];
    fc.assert(
      // As many as are two batches, where that depends on how many there are; and one whose second batch has no rows.
      fc.property(fc.oneof(calls(eager.programs.length, { min: 9, max: 14 }), calls(eager.programs.length, { min: 1, max: 1 })), (asked) => {
        const [expected, got] = [generate(eager, asked), generate(graph, asked)];
        expect(got).toEqual(expected);
        for (const [index, bytes] of results(eager).entries()) expect(Buffer.compare(bytes, results(graph)[index] as Buffer)).toBe(0);
      }),
      { numRuns: runs(4) },
    );
  });
});

describe('launches', () => {
  afterEach(() => vi.restoreAllMocks());

  /** Counts what a model's forward pass calls, by kernel. */
  function counted({ programs }: BareModel): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { forward } of programs) {
      const { kernels } = forward;
      const counting = Object.fromEntries(
        KERNEL_NAMES.map((name) => [
          name,
          (...operands: number[]) => {
            counts.set(name, (counts.get(name) ?? 0) + 1);
            return (kernels[name] as (...operands: number[]) => unknown)(...operands);
          },
        ]),
      );
      for (const calls of [forward, forward.products, forward.experts, forward.experts.products])
        Object.defineProperty(calls, 'kernels', { value: counting as unknown as Kernels });
    }
    return counts;
  }

  const alike = (count: number, max_tokens: number): Call[] => Array.from({ length: count }, (_, index) => ({ npu: 0, prompt: [1, 2, 3, index], max_tokens }));

  it('should be one for a decode step of one NPU, and none for prefill', async () => {
    const model = await loadBareModel(folderOf('tiny-deepseek-v3'));
    const counts = counted(model);
    generate(model, alike(5, 1));
    expect(counts.has('runProgram')).toBe(false);
    expect(counts.get('matmulBf16')).toBeGreaterThan(20);
    counts.clear();
    generate(model, alike(5, 8));
    const { runProgram, ...others } = Object.fromEntries(counts);
    expect(runProgram).toBe(7);
    counts.clear();
    generate(model, alike(5, 1));
    expect(Object.fromEntries(counts)).toEqual(others);
  });

  it('should be two for each round of drafts that a layer computes, and of no kernel by itself', async () => {
    const speculative = { method: 'mtp' as const, tokens: 3, lookup_max: 5, lookup_min: 5, adaptive: false };
    const model = await loadBareModel(folderOf('tiny-deepseek-v3'), { speculative });
    const counts = counted(model);
    let prefill: object = {};
    generateGreedily(model, [1, 2, 3, 4], 5, {
      foresees: 3,
      onStep: (start) => {
        if (start === 0) prefill = Object.fromEntries(counts);
      },
    });
    const { runProgram, sampleRow: _, ...others } = Object.fromEntries(counts);
    expect(runProgram).toBe(4 * (1 + 2 * 3));
    expect(prefill).toMatchObject(Object.fromEntries(Object.entries(others).filter(([name]) => /^(matmul|embed|rmsNorm|mla|gate|combine)/.test(name))));
  });

  it('should go from one point to the next where peers are asked', async () => {
    const model = await loadBareModel(folderOf('tiny-deepseek-v3'), { topology: colocated(2) });
    const counts = counted(model);
    generate(model, alike(3, 6));
    const { layers, moe } = model.plan.config;
    expect(counts.get('runProgram')).toBe(5 * (2 * (layers - moe.denseLayers.length) + 1));
    // What a peer is asked for is one call too, in prefill as well.
    const served = model.programs.reduce((sum, { exchange }) => sum + exchange.served, 0);
    expect(served).toBeGreaterThan(5);
    expect(counts.get('runExperts')).toBe(served);
  });

  it('should be none where a table is written anew meanwhile, and says more than there is room for', async () => {
    const { programs, space, plan } = await loadBareModel(folderOf('tiny-deepseek-v3'), { topology: colocated(2) });
    const [asker, peer] = programs as [(typeof programs)[0], (typeof programs)[0]];
    const words = space.wordsOf(asker.forward.layout.base);
    const { areas, expertSlots, row_bytes } = peer.forward.layout;
    const layer = plan.config.layers - 1;
    const [table, rows] = [offsetOf(asker.forward.layout.scratch.segments) >>> 2, offsetOf(asker.forward.layout.scratch.pairRows) >>> 2];
    const answer = space.bytesAt(areas.reply, 4 * row_bytes);
    const serve = (...segments: readonly (readonly [slot: number, count: number])[]): boolean | undefined => {
      words.set([0, 1, 0], rows);
      words.set(
        segments.flatMap(([slot, count]) => [(slot << SLOT_SHIFT) | slot, count]),
        table,
      );
      answer.fill(0xff);
      const dispatch = asker.batches.describe({ npu: 1, firstSegment: 0, segments: segments.length, firstPair: 0, pairs: 3 }, layer);
      return peer.service.graphs?.serve(dispatch, areas.reply, 3);
    };
    const isWritten = (row: number): boolean => answer.subarray(row * row_bytes, (row + 1) * row_bytes).some((byte) => byte !== 0xff);
    expect(serve([0, 2], [1, 1])).toBe(true);
    expect([0, 1, 2, 3].map(isWritten)).toEqual([true, true, true, false]);
    for (const torn of [
      [
        [0, 3],
        [1, 1],
      ],
      [
        [0, 2],
        [1, -1],
      ],
      [
        [0, 1],
        [expertSlots.each, 1],
      ],
      Array.from({ length: expertSlots.each + 1 }, () => [0, 0] as const),
    ] as const) {
      expect(serve(...torn)).toBe(false);
      expect([0, 1, 2, 3].some(isWritten)).toBe(false);
    }
  });

  it('should be those of both micro-batches, and the head by itself', async () => {
    const topology = parseTopology('moe-attention:domains=1x1,experts=1');
    const model = await loadBareModel(folderOf('tiny-deepseek-v3'), { topology, micro_batches: 2, kv_blocks: 64 });
    const counts = counted(model);
    const ofBatches = vi.spyOn(DecodeGraphs.prototype, 'layersOf');
    generate(model, alike(12, 6));
    const { layers, moe } = model.plan.config;
    // Of the first one: the second's kernels are not counted. The shared expert is elsewhere, so nothing of its own is computed while the experts do theirs.
    expect(counts.get('runProgram')).toBe(5 * (layers - moe.denseLayers.length + 1));
    expect(new Set(ofBatches.mock.contexts).size).toBe(2);
    expect(ofBatches.mock.results.map(({ value }) => value?.length)).toEqual(Array.from({ length: 10 }, () => 2 * (layers - moe.denseLayers.length) + 1));
  });

  it('should be none where eager mode is enforced, and for more rows than are captured', async () => {
    const model = await loadBareModel(folderOf('tiny-qwen3-moe'), { enforce_eager: true });
    const counts = counted(model);
    generate(model, alike(3, 4));
    expect(counts.has('runProgram')).toBe(false);
    expect(attentionLayouts(model.plan.layouts)[0]?.graphs).toBeNull();
    const wide = await loadBareModel(folderOf('tiny-kimi-k2'), { max_batch_requests: 70, max_batch_tokens: 280, kv_blocks: 80 });
    const wideCounts = counted(wide);
    generate(wide, alike(65, 3));
    expect(wideCounts.has('runProgram')).toBe(false);
    generate(wide, alike(64, 3));
    expect(wideCounts.get('runProgram')).toBe(2);
  });

  it('should be captured once for each number of rows', async () => {
    const model = await loadBareModel(folderOf('tiny-kimi-k2'));
    const capture = vi.spyOn(KernelRecorder.prototype, 'capture');
    generate(model, alike(4, 6));
    const { layers, moe } = model.plan.config;
    expect(capture).toHaveBeenCalledTimes((layers - moe.denseLayers.length) * moe.experts + 1);
    capture.mockClear();
    generate(model, alike(4, 9));
    expect(capture).not.toHaveBeenCalled();
    generate(model, alike(3, 9));
    generate(model, alike(2, 9));
    expect(capture).toHaveBeenCalledTimes(2);
  });
});

describe('the sort of (token, expert) pairs in WASM', async () => {
  const module = await loadKernelModule();

  it('should write the tables that ExpertBatches writes', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 5, max: 24 }),
        fc.integer({ min: 1, max: 5 }),
        fc.nat(3),
        fc.infiniteStream(fc.nat()),
        (rows, topK, experts, npus, first, draws) => {
          const draw = (below: number): number => (draws.next().value as number) % below;
          const redundant_experts = draw(2 * npus);
          const slots = Math.ceil((experts + redundant_experts) / npus) * npus;
          // Each expert in one slot, the others hold any of them or nothing.
          const mapOf = (): number[] => {
            const of = Array.from({ length: slots }, (_, slot) => (slot < experts ? slot : draw(experts + 1) - 1));
            for (let slot = slots - 1; slot > 0; slot--) {
              const other = draw(slot + 1);
              [of[slot], of[other]] = [of[other] as number, of[slot] as number];
            }
            return of;
          };
          const model = { ...SHAPE, moe: { ...SHAPE.moe, experts, topK } };
          const pod = makeHashPod(npus, { model, redundant_experts, expert_maps: [[1, 2, 3].map(mapOf)] });
          const program = pod.programs[draw(npus)];
          if (program === undefined) throw new Error('no NPU');
          const { at, layout } = program.forward;
          const words = pod.space.wordsOf(layout.base);
          for (let pair = 0; pair < rows * topK; pair++) words[at.experts / 4 + pair] = draw(experts);
          const tables = (): number[][] =>
            [
              [at.segments, slots * 2],
              [at.pairRows, rows * topK],
              [at.rowIndices, rows * topK],
            ].map(([from = 0, count = 0]) => [...words.subarray(from / 4, from / 4 + count)]);
          const clear = (): void => void words.fill(0, at.segments / 4, at.segments / 4 + slots * 2);
          clear();
          const shares = program.batches.sort(2, rows, first);
          const expected = tables();

          clear();
          const { maps, total, each, rank } = layout.expertSlots;
          const starts = offsetOf(layout.kv.address);
          const found = starts + total * 4;
          const kernels = instantiateKernels(module, pod.space.memory(layout.base));
          const map = offsetOf(maps[2] ?? 0);
          kernels.sortPairs(
            at.experts,
            first,
            rows,
            topK,
            rank,
            map,
            experts,
            total,
            each,
            program.batches.firstSlot,
            starts,
            at.segments,
            at.pairRows,
            at.rowIndices,
            found,
          );
          expect(tables()).toEqual(expected);
          const inWasm = Array.from({ length: npus }, (_, npu) => {
            const [firstSegment, segments, firstPair, pairs] = words.subarray(found / 4 + npu * 4, found / 4 + npu * 4 + 4);
            return { npu, firstSegment, segments, firstPair, pairs };
          });
          expect(inWasm.filter(({ pairs }) => pairs !== 0)).toEqual(shares);
        },
      ),
      { numRuns: runs(60) },
    );
  });
});
