/**
 * How a model is split over the ranks of a DP group (tensor parallelism), bits unchanged: by output columns, whose parts are gathered, never by inputs, whose
 * sums would depend on the split.
 *
 *   attention         by heads; queries, scores and values of a head are one rank's. Keys and values are computed and stored by every rank, all heads of
 *                     them, so each rank's KV cache is the whole one, whatever its tp: a decode rank pulls from any rank that prefilled.
 *   output projection,
 *   dense MLP, head   by output columns, in panels of the packed weights
 *                     Where each NPU has attention of its own, neighbouring NPUs may split their output projection all the same (output-projection.ts).
 *   experts           not at all: they are spread over all NPUs of the task executor. A step's rows are dealt out to the ranks, each of which has the gate,
 *                     the experts and the shared expert compute for its own ones.
 *
 * What does not divide is dealt out unevenly: the first ranks get one head, panel or row more.
 * @module
 */
import { attentionPlaceOf, type Deployment, type DpGroupPlace, projectionGroupOf } from '../../protocol/topology.ts';
import type { Table } from '../../xccl/all-gather.ts';

/** One of `tp` ranks. */
export type TensorShare = { readonly rank: number; readonly tp: number };
/** `count` neighbours from `first` on. */
export type Range = { readonly first: number; readonly count: number };

export const isTensorParallel = ({ executors }: Deployment): boolean => executors.some(({ tp }) => tp > 1);

export function tensorShareOf(deployment: Deployment, npu: number): TensorShare {
  const { group, rank } = attentionPlaceOf(deployment, npu);
  return { rank, tp: (deployment.groups[group] as DpGroupPlace).npus.length };
}

export const hasSplitProjection = ({ executors }: Deployment): boolean => executors.some(({ oproj = 1 }) => oproj > 1);

/** Of NPUs that split their output projection. */
export function projectionShareOf(deployment: Deployment, npu: number): TensorShare {
  const { first, npus } = projectionGroupOf(deployment, npu);
  return { rank: npu - first, tp: npus };
}

/** Where each rank's part begins, and where the last one ends. */
export const boundsOf = (total: number, unit: number, tp: number): number[] =>
  Array.from({ length: tp + 1 }, (_, rank) => {
    const units = Math.ceil(total / unit);
    return Math.min(total, unit * (rank * Math.floor(units / tp) + Math.min(rank, units % tp)));
  });

/** A rank's part of `total` things that are dealt out in runs of `unit`. */
export function partOf(total: number, unit: number, { rank, tp }: TensorShare): Range {
  const bounds = boundsOf(total, unit, tp);
  const first = bounds[rank] as number;
  return { first, count: (bounds[rank + 1] as number) - first };
}

/** The first of a step's rows that is a rank's own; for rank `tp`, their end. */
export const firstRowOf = (rows: number, rank: number, tp: number): number => rank * Math.floor(rows / tp) + Math.min(rank, rows % tp);

/** What is gathered in a step: heads' outputs; their projection, and dense layers' outputs; dense layers' activations; rows after a layer of experts; logits. */
export type Gathered = 'attended' | 'projected' | 'activated' | 'rows' | 'logits';

/** A table of rows of `width` columns, `column_bytes` each, split in runs of `unit` columns; `width` 1: whole rows are dealt out. */
export type TablePlace = { readonly address: number; readonly width: number; readonly unit: number; readonly column_bytes: number };

/** The tables that a rank gathers, each of as many rows as the step at hand. */
export class GatherTables {
  readonly #tp: number;
  readonly #places: Readonly<Record<Gathered, TablePlace>>;
  readonly #tables: Readonly<Record<Gathered, ReusedTable>>;

  constructor(tp: number, places: Readonly<Record<Gathered, TablePlace>>) {
    this.#tp = tp;
    this.#places = places;
    const tableOf = ({ address, width, unit, column_bytes }: TablePlace): ReusedTable => {
      const bounds = boundsOf(width, unit, tp).map((column) => column * column_bytes);
      return { address, rows: 1, stride: width * column_bytes, bounds };
    };
    const { attended, projected, activated, rows, logits } = places;
    this.#tables = {
      ...{ attended: tableOf(attended), projected: tableOf(projected), activated: tableOf(activated), rows: tableOf(rows), logits: tableOf(logits) },
    };
  }

  /** Good until it is asked for again. `first`: the first row; 0 but for logits, whose batches take turns. */
  of(gathered: Gathered, first: number, rows: number): Table {
    const table = this.#tables[gathered];
    const { address, column_bytes } = this.#places[gathered];
    if (gathered === 'rows') {
      // One long row, in which each rank has a run of them.
      table.stride = rows * column_bytes;
      for (let rank = 0; rank <= this.#tp; rank++) table.bounds[rank] = firstRowOf(rows, rank, this.#tp) * column_bytes;
    } else {
      table.address = address + first * table.stride;
      table.rows = rows;
    }
    return table;
  }
}

type ReusedTable = { address: number; rows: number; stride: number; readonly bounds: number[] };
