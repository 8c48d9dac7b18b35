/**
 * Where the captured programs of an NPU lie, with the tables that they need.
 *
 *   starts │ shares │ variables │ slots' table │ slots' programs │ program of a step │ of another shape of it │ … shapes_max │ of a round of drafts │ … │ a peer's share
 * @module
 */
import type { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import { layersInMemory } from '../../model/moe-layers.ts';
import type { ExpertSlots } from '../experts/expert-slots.ts';
import { rowFormatsOf } from '../forward/narrow-rows.ts';
import type { LayoutOptions } from './step-layout.ts';

/** Addresses are global, as all of a layout. */
export type GraphPlace = {
  /** Rows of the largest step that is captured. */
  readonly rows_max: number;
  /** u32 [slots of the group]: scratch of the sort. */
  readonly starts: number;
  /** u32 [NPUs of the group][4]: what the sort found for each (SHARE). */
  readonly shares: number;
  /** u32 [3]: y, x and number of rows of the slot whose expert runs. */
  readonly variables: number;
  /** u32 [layers][own slots][2]: address and bytes of each slot's program, 0 in layers without experts. */
  readonly slotTable: number;
  /** Programs of own slots, `slot_bytes` each, one after the other. */
  readonly slotPrograms: number;
  readonly slot_bytes: number;
  /** Programs of steps, `step_bytes` each, of so many shapes at once. */
  readonly shapes_max: number;
  readonly stepPrograms: number;
  readonly step_bytes: number;
  /** Programs of rounds of drafts, where layers compute those. */
  readonly rounds: { readonly programs: number; readonly room_bytes: number; readonly rooms: number };
  /** A share (SHARE) and u32 [own slots][2]: what a peer asks, copied from where it may be written anew. */
  readonly served: number;
};

/** Words of a share, as kernels write it. */
export const SHARE = { firstSegment: 0, segments: 1, firstPair: 2, pairs: 3 } as const;
export const SHARE_WORDS = 4;

/** Three instructions: 25 words. In INT8, where rows are quantised before they are multiplied, five: 39. */
const SLOT_PROGRAM_WORDS_MAX = { float: 32, int8: 40 } as const;
/** An MLA layer with experts and shared expert has 245; in INT8 279. */
const LAYER_WORDS_MAX = { float: 288, int8: 320 } as const;
/** Rows to INT8 and back: of a layer's on their way to experts, of an expert's answers. */
const NARROW_WORDS = 14;
/** Of a number of rows: sequences have few drafts or none, so most steps are one of few shapes. */
const DRAFTED_SHAPES = 4;
/** Embedding and head: 25. */
const ENDS_WORDS_MAX = 32;
/** What an MTP layer is given, made of a row and a token: 46; in INT8 53. */
const FORESEEN_WORDS_MAX = 64;
/** Of a number of rows and a layer that drafts: its rounds, by whether it follows the main model, and the head of as many. */
const ROUNDS_OF_ROWS = 6;

/** `logitRows`: what the logits have room for. */
export function layoutGraphs(
  config: ModelConfig,
  options: LayoutOptions,
  { group, each, total }: Pick<ExpertSlots, 'group' | 'each' | 'total'>,
  logitRows: number,
  arena: Arena,
): GraphPlace {
  const { quantization } = config;
  const layers = layersInMemory(config);
  const drafts = options.speculative?.tokens ?? 0;
  const rows_max = Math.min(options.max_batch_requests * (1 + drafts), options.max_batch_tokens, logitRows);
  const shapes_max = drafts === 0 ? rows_max : DRAFTED_SHAPES * rows_max;
  const words = (count: number): number => arena.allocate(count * 4);
  const kind = quantization === undefined ? 'float' : 'int8';
  const { there, back } = rowFormatsOf(options);
  const [sent, answered] = [there, back].map((format) => (format === 'int8' ? NARROW_WORDS : 0)) as [number, number];
  const layer_words = LAYER_WORDS_MAX[kind] + sent + answered;
  const slot_bytes = (SLOT_PROGRAM_WORDS_MAX[kind] + answered) * 4;
  const step_bytes = (layers * layer_words + ENDS_WORDS_MAX) * 4;
  const room_bytes = (layer_words + FORESEEN_WORDS_MAX) * 4;
  const rooms = ROUNDS_OF_ROWS * (layers - config.layers) * rows_max;
  return {
    rows_max,
    shapes_max,
    starts: words(total),
    shares: words(group.npus * SHARE_WORDS),
    variables: words(3),
    slotTable: words(layers * each * 2),
    slotPrograms: arena.allocate(layers * each * slot_bytes),
    slot_bytes,
    stepPrograms: arena.allocate(shapes_max * step_bytes),
    step_bytes,
    rounds: { programs: arena.allocate(rooms * room_bytes), room_bytes, rooms },
    served: words(SHARE_WORDS + 2 * each),
  };
}
