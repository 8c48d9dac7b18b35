/** What is laid out lies apart from whatever else is there, and has room for the most that may come. */
import { describe, expect, it } from 'vitest';
import { Arena } from '../../../src/fabric/arena.ts';
import { ringBytes, wholeBytesMax } from '../../../src/fabric/ring-layout.ts';
import { layoutOffers, offerPlace } from '../../../src/flowserve/distflow/offer-layout.ts';
import { layoutProducts } from '../../../src/flowserve/forward/products.ts';
import { gatherPlaces } from '../../../src/flowserve/forward/rank-split.ts';
import { type Gathered, GatherTables, type TablePlace } from '../../../src/flowserve/forward/tensor-share.ts';
import type { HashLayout } from '../../../src/flowserve/hash-model/hash-layout.ts';
import { layoutExperts, layoutNpu, linearsIn } from '../../../src/flowserve/layouts/npu-layout.ts';
import { onDie } from '../../../src/flowserve/pod-plan.ts';
import { ProgramRooms } from '../../../src/flowserve/steps/program-rooms.ts';
import { type ModelConfig, parseModelConfig } from '../../../src/model/config.ts';
import { parseTopology } from '../../../src/protocol/topology.ts';
import { CALLER_THREAD, CONTROL_THREAD } from '../../../src/runtime/directory.ts';
import { readJson, TINY, TINY_NAMES } from '../../model/checkpoint-folder.ts';
import { makeHashPod, SHAPE } from '../hash-rig.ts';

type Span = { readonly from: number; readonly bytes: number };
/** Each behind another, whatever their order, and all of them within that. */
function expectApart(spans: readonly Span[], { from, bytes }: Span): void {
  const ordered = spans.toSorted((a, b) => a.from - b.from);
  let end = from;
  for (const span of ordered) {
    expect(span.from).toBeGreaterThanOrEqual(end);
    end = span.from + span.bytes;
  }
  expect(end).toBeLessThanOrEqual(from + bytes);
}

const TABLES = ['attended', 'projected', 'activated', 'rows', 'logits'] as const satisfies readonly Gathered[];

/** Addresses; the others are sizes. */
const PLACES_OF_KV: readonly string[] = ['address', 'holders', 'generations', 'sums', 'filled'];

describe('rings', () => {
  it('should lie in the region that is theirs, the caller’s wide enough for the text of the longest prompt', () => {
    const plan = makeHashPod(2, { has_rings: true, model: { ...SHAPE, maxPositions: 2 ** 17 } }).plan;
    const region = plan.memory.regions.find(({ kind }) => kind === 'rings') ?? expect.fail('there is no region for rings');
    expectApart(
      plan.rings.map((ring) => ({ from: ring.offset, bytes: ringBytes(ring) })),
      { from: region.base, bytes: region.bytes },
    );
    const callers = plan.rings.filter(({ from, to, lane }) => from === CALLER_THREAD && to === CONTROL_THREAD && lane === 'data');
    expect(callers).toHaveLength(1);
    // Text of a few bytes, and the id.
    for (const ring of callers) expect(wholeBytesMax(ring)).toBeGreaterThanOrEqual(plan.config.maxPositions * (8 + 4));
  });
});

describe('tables that ranks gather', () => {
  const rows = 10;

  it('should lie apart in a real model, each with room for all rows', () => {
    const config = {
      attention: { kind: 'gqa', headDim: 8 },
      heads: 6,
      hiddenSize: 40,
      mlp: { intermediateSize: 72 },
      vocabSize: 100,
    } as unknown as ModelConfig;
    const places = gatherPlaces(config, { max_batch_tokens: rows } as never, 3, 4_096);
    const widths = { attended: rows * 48, projected: rows * 40, activated: rows * 72, rows: rows * 40, logits: 3 * 100 };
    expectApart(
      TABLES.map((table) => ({ from: places[table], bytes: widths[table] * 4 })),
      { from: 4_096, bytes: places.bytes },
    );
  });

  it('should lie apart in the hash model too, also where another executor has no ranks', () => {
    for (const topology of ['pd:prefill=1xtp2,decode=1', 'pd:prefill=1,decode=1xtp2']) {
      const { plan } = makeHashPod(3, { topology: parseTopology(topology) });
      for (const layout of plan.layouts) {
        const { share, scratch, areas } = layout as HashLayout;
        if (share.tp === 1) continue;
        const bytes = 8 * plan.options.max_batch_tokens;
        expectApart(
          (['attended', 'projected', 'activated', 'rows'] as const).map((table) => ({
            from: scratch[table],
            bytes: bytes * (table === 'rows' ? 1 : share.tp),
          })),
          { from: areas.gather, bytes: layout.bytes },
        );
      }
    }
  });

  it('should be gathered row by row, but for rows behind experts: those are one long row', () => {
    const place: TablePlace = { address: 64, width: 8, unit: 4, column_bytes: 4 };
    const tables = new GatherTables(
      2,
      Object.fromEntries(TABLES.map((table) => [table, table === 'rows' ? { ...place, width: 1, column_bytes: 32 } : place])) as never,
    );
    expect(tables.of('projected', 2, 5)).toMatchObject({ address: 64 + 2 * 32, rows: 5, stride: 32, bounds: [0, 16, 32] });
    expect(tables.of('rows', 0, 5)).toMatchObject({ address: 64, rows: 1, stride: 5 * 32, bounds: [0, 3 * 32, 5 * 32] });
  });
});

it('quantised rows and their scales should lie apart', () => {
  const arena = new Arena(128);
  const [rows, width] = [96, 40];
  const { quantized, quantizedScales } = layoutProducts({ quantization: {} } as unknown as ModelConfig, rows, width, arena);
  expectApart(
    [
      { from: quantized, bytes: rows * width * 2 },
      { from: quantizedScales, bytes: rows * 4 },
    ],
    { from: 128, bytes: arena.used },
  );
});

it('offers should lie apart, with three words for each block that they may have', () => {
  const arena = new Arena(128);
  const blocks_max = 40;
  const offers = layoutOffers(arena, 3, blocks_max);
  const spans = [0, 1, 2].flatMap((slot) => {
    const { header, blocks, generations, checksums } = offerPlace(offers, slot);
    return [{ from: header, bytes: 16 }, ...[blocks, generations, checksums].map((from) => ({ from, bytes: blocks_max * 4 }))];
  });
  expectApart(spans, { from: 128, bytes: arena.used });
});

it('all of an NPU’s KV should lie as far from its die’s beginning on another die: its blocks, and the tables of them', () => {
  const { plan } = makeHashPod(2, {});
  const [own, other] = [onDie(plan, 0, 0).kv, onDie(plan, 0, 1).kv];
  const far = (plan.dies[1]?.base ?? 0) - (plan.dies[0]?.base ?? 0);
  for (const [name, at] of Object.entries(plan.layouts[0]?.kind === 'attention' ? own : {}))
    expect([name, other[name as keyof typeof other] - at]).toEqual([name, PLACES_OF_KV.includes(name) ? far : 0]);
});

it('captured programs should have as many rooms as there are, the one unused the longest given to who comes next', () => {
  const rooms = new ProgramRooms<string, number>(1_000, 100, 2);
  const captured: number[] = [];
  const roomOf = (shape: string): number =>
    rooms.of(shape, (from, bytes) => {
      captured.push(bytes);
      return from;
    });
  expect(['a', 'b', 'a', 'c', 'a', 'b'].map(roomOf)).toEqual([1_000, 1_100, 1_000, 1_100, 1_000, 1_100]);
  expect(captured).toEqual([100, 100, 100, 100]);
});

it('KV of real kernels should have no block that ends within a tile of theirs', () => {
  const { options } = makeHashPod(1).plan;
  for (const name of TINY_NAMES) {
    const config = parseModelConfig(readJson(TINY[name], 'config.json'));
    const layout = (kv_block_size: number) => layoutNpu(config, () => 'BF16', { ...options, kv_block_size }, 0, 0);
    for (const wrong of [0, 8, 24]) expect(() => layout(wrong)).toThrow(`tiles of 16 positions: kv_block_size is ${wrong}, no multiple`);
    expect(layout(48).kv.block_size).toBe(48);
  }
});

describe('weights', () => {
  it('of experts should have slots as wide as the widest that may come to lie there', () => {
    const wide = new Set(['model.layers.3.mlp.experts.2.up_proj.weight', 'model.layers.3.mlp.experts.1.down_proj.weight']);
    const dtypeOf = (name: string) => (wide.has(name) ? 'F32' : 'BF16');
    const config = { hiddenSize: 16, moe: { experts: 4, intermediateSize: 16, sharedExperts: 0 } } as unknown as ModelConfig;
    const { slots } = layoutExperts(config, 3, 2, false, linearsIn(new Arena(0), dtypeOf), dtypeOf);
    expect(slots.map(({ gateUp, down }) => [gateUp.format, down.format])).toEqual([
      ['f32', 'f32'],
      ['f32', 'f32'],
    ]);
  });

  it('should have room to wait in, a panel of the widest rows at least', () => {
    const [heads, width] = [256, 128];
    const config = parseModelConfig({ ...readJson(TINY['tiny-deepseek-v3'], 'config.json'), num_attention_heads: heads, v_head_dim: width });
    const { staging } = layoutNpu(config, () => 'BF16', { ...makeHashPod(1).plan.options, kv_block_size: 16 }, 0, 0);
    expect(staging.bytes).toBeGreaterThanOrEqual(16 * heads * width * 4);
  });
});
