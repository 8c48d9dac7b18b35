/**
 * What lies where in the region of an expert NPU: the areas that every die has, experts' weights, and room for the rows of one of them. It has no attention, no
 * embedding, no head, and no KV (xDeepServe §5.2).
 *
 *   metadata … reply area | tables of slots | layer by layer: slots, shared expert | rows on their way | staging
 * @module
 */
import { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import { isMoeLayer, layersInMemory } from '../../model/moe-layers.ts';
import { executorOfNpu, sharedExpertNpusOf } from '../../protocol/topology.ts';
import { layoutAreas } from '../../xccl/areas.ts';
import { layoutSlotTables, layoutStaging } from '../experts/expert-slots.ts';
import { layoutNarrow } from '../forward/narrow-rows.ts';
import { layoutProducts, type ProductScratch } from '../forward/products.ts';
import { gatherPlaces } from '../forward/rank-split.ts';
import { isTensorParallel } from '../forward/tensor-share.ts';
import { weightPieces } from '../weights/replicated-weights.ts';
import { layoutWeightSums } from '../weights/resting-weights.ts';
import { type Dtypes, type ExpertWeights, layoutExperts, linearsIn, realAreaSizes, STAGING_BYTES, slotWeightsOf } from './npu-layout.ts';
import { LOGIT_ROWS_MAX } from './scratch-layout.ts';
import type { ExpertLayout, LayoutOptions } from './step-layout.ts';
import { layoutExpertTurns } from './turns-layout.ts';

/** Activations on their way through one expert. */
export type ExpertScratch = ExpertLayout['scratch'] & ProductScratch & { readonly gateUp: number; readonly activated: number };

export type ExpertNpuLayout = ExpertLayout & {
  /** Null: a dense layer. */
  readonly layers: readonly (ExpertWeights | null)[];
  readonly scratch: ExpertScratch;
  /** Raw tensor bytes on their way into panels. */
  readonly staging: { readonly address: number; readonly bytes: number };
};

export function layoutExpertNpu(config: ModelConfig, dtypeOf: Dtypes, options: LayoutOptions, npu: number, base: number, bytes?: number): ExpertNpuLayout {
  const { hiddenSize, moe } = config;
  const { deployment, max_batch_tokens: rows } = options;
  const arena = new Arena(base, bytes);
  const gather_bytes = isTensorParallel(deployment) ? gatherPlaces(config, options, LOGIT_ROWS_MAX, 0).bytes : 0;
  const areas = layoutAreas(realAreaSizes(config, options, npu, gather_bytes), arena);
  const areasEnd = arena.used;
  const slotTables = layoutSlotTables(config, options, npu, arena);
  const linear = linearsIn(arena, dtypeOf);
  const hasShared = moe.sharedExperts > 0 && sharedExpertNpusOf(executorOfNpu(deployment, npu)).includes(npu);
  const layers = Array.from({ length: layersInMemory(config) }, (_, layer) =>
    isMoeLayer(config, layer) ? layoutExperts(config, layer, slotTables.each, hasShared, linear, dtypeOf) : null,
  );
  const weights = layers.map(slotWeightsOf);
  const expertSlots = { ...slotTables, weights, staging: layoutStaging(options, weights, arena) };
  const shared = layers.flatMap((of, layer) => weightPieces(of?.shared, layer));
  const weightSums = layoutWeightSums(shared.length, arena);
  const weightsEnd = arena.used;
  const inter = moe.intermediateSize * Math.max(1, moe.sharedExperts);
  const words = (count: number): number => arena.allocate(count * 4);
  const scratch = {
    ...{ gathered: words(rows * hiddenSize), computed: words(rows * hiddenSize), gateUp: words(rows * 2 * inter), activated: words(rows * inter) },
    ...layoutProducts(config, rows, Math.max(hiddenSize, inter), arena),
  };
  const turns = layoutExpertTurns(config, hiddenSize * 4, options, npu, arena);
  const narrow = layoutNarrow(options, rows, hiddenSize * 4, arena);
  const staging_bytes = Math.max(STAGING_BYTES, 16 * Math.max(hiddenSize, inter) * 8);
  const staging = { address: arena.allocate(staging_bytes), bytes: staging_bytes };
  const parts = { weights: weightsEnd - areasEnd, activations: arena.used - weightsEnd, 'XCCL areas': areasEnd };
  return {
    kind: 'experts',
    npu,
    base,
    bytes: arena.used,
    parts,
    rows_max: rows,
    row_bytes: hiddenSize * 4,
    areas,
    expertSlots,
    layers,
    shared,
    weightSums,
    scratch,
    turns,
    staging,
    narrow,
  };
}
