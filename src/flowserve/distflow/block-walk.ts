/**
 * The chunks of many blocks in the order in which they are copied or summed: block by block, or layer by layer through all blocks.
 *
 *   by request   block 0: layer 0, layer 1, …   block 1: layer 0, …        long runs, as all of it is there
 *   by layer     layer 0: block 0, block 1, …   layer 1: block 0, …        goes as far as the layers that are there
 *
 * Within a block the order is the same either way, so a block's sum is.
 * @module
 */
import { CHUNK_BYTES } from './checksum.ts';

export type BlockShape = {
  readonly blocks: number;
  readonly layer_bytes: number;
  /** Of each block, from `first_layer` on; blocks hold their layers one after the other. */
  readonly first_layer: number;
  readonly end_layer: number;
};

export type WalkOrder = 'by request' | 'by layer';

export class BlockWalk {
  readonly shape: BlockShape;
  order: WalkOrder;
  block = 0;
  layer: number;
  /** Within the layer. */
  #offset = 0;

  constructor(shape: BlockShape, order: WalkOrder) {
    this.shape = shape;
    this.order = order;
    this.layer = shape.first_layer;
  }

  get isDone(): boolean {
    const { blocks, first_layer, end_layer } = this.shape;
    return blocks === 0 || first_layer >= end_layer || (this.order === 'by layer' ? this.layer >= end_layer : this.block >= blocks);
  }

  /** Where the chunk lies in its block. */
  get at(): number {
    return this.layer * this.shape.layer_bytes + this.#offset;
  }

  /** Of the chunk. */
  get bytes(): number {
    return Math.min(CHUNK_BYTES, this.shape.layer_bytes - this.#offset);
  }

  /** On to the next chunk. */
  advance(): void {
    const { blocks, layer_bytes, first_layer, end_layer } = this.shape;
    this.#offset += CHUNK_BYTES;
    if (this.#offset < layer_bytes) return;
    this.#offset = 0;
    if (this.order === 'by layer') {
      if (++this.block < blocks) return;
      this.block = 0;
      this.layer++;
    } else {
      if (++this.layer < end_layer) return;
      this.layer = first_layer;
      this.block++;
    }
  }

  isAt(other: BlockWalk): boolean {
    return this.block === other.block && this.layer === other.layer && this.#offset === other.#offset;
  }
}
