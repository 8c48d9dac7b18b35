/**
 * Output projection with TP > 1 where attention has TP 1 (xDeepServe §4): NPUs of neighbouring DP groups split the weights by output columns, and each has
 * attention of its own sequences. In a layer each needs its rows times all columns:
 *
 *   NPU 0   attended 0 ─┬─▶ columns 0 of rows 0  ─▶ | 0 0 0 0 1 1 1 1 |  ─▶  x += projected
 *                       └─▶ columns 1 of rows 0  ─▶         at NPU 1
 *
 * The groups step each at its own pace, so there is no point where all rows of both would be at hand for an all-to-all: an NPU asks its peers as it asks
 * experts, and the peer's persistent kernel serves it, whatever its own step does (xDeepServe §5.3). Each column is one sum over all inputs, computed in one
 * place, and pulled: bits do not depend on the split. Weights stay where they are asked for, so a peer that was lost is asked again when it is back.
 * @module
 */
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { layersInMemory } from '../../model/moe-layers.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { RowsDispatch } from '../../xccl/exchange.ts';
import type { ProjectedColumns, ProjectionPlace } from '../layouts/step-layout.ts';
import type { Arithmetic } from './arithmetic.ts';

export class OutputProjection {
  /** The other NPUs that have columns of it; none where it is not split. */
  readonly peers: readonly number[];
  readonly #forward: Arithmetic;
  readonly #space: AddressSpace;

  constructor(forward: Arithmetic, space: AddressSpace) {
    const { npu, projection } = forward.layout;
    this.#forward = forward;
    this.#space = space;
    const { rank, tp } = projection?.share ?? { rank: 0, tp: 1 };
    this.peers = Array.from({ length: tp }, (_, peer) => npu - rank + peer).filter((peer) => peer !== npu);
  }

  /** The DISPATCH of a step's rows; alike for all peers. */
  describe(layer: number, rows: number): RowsDispatch {
    const { attended, attended_row_bytes } = this.#place;
    return { layer, rows, rowsAddress: attended, bytes: rows * attended_row_bytes };
  }

  columnsOf(npu: number): ProjectedColumns {
    const { share, columns } = this.#place;
    return columns[npu - this.#forward.layout.npu + share.rank] as ProjectedColumns;
  }

  /** Rows that a peer has projected; infinity if it asks for what cannot be. */
  readonly rowsOf = ({ layer, rows, bytes }: RowsDispatch): number => {
    const { config, layout } = this.#forward;
    if (layout.projection === null || layer >= layersInMemory(config) || rows < 0 || rows > layout.rows_max) return Number.POSITIVE_INFINITY;
    return bytes === rows * layout.projection.attended_row_bytes ? rows : Number.POSITIVE_INFINITY;
  };

  /** Computes this NPU's columns of a peer's rows, into `reply`, rows of the layout's width in this NPU's own region. */
  compute({ layer, rows, rowsAddress, bytes }: RowsDispatch, reply: number): void {
    const { base, scratch } = this.#forward.layout;
    const isNear = segmentOf(rowsAddress) === segmentOf(base);
    if (!isNear) this.#space.copy(scratch.gathered, rowsAddress, bytes);
    this.#forward.projectColumns(layer, rows, offsetOf(reply), offsetOf(isNear ? rowsAddress : scratch.gathered));
  }

  get #place(): ProjectionPlace {
    const { npu, projection } = this.#forward.layout;
    if (projection === null) invariantBroken(`the output projection of NPU ${npu} is not split`);
    return projection as ProjectionPlace;
  }
}
