/**
 * Gives out the KV blocks of one NPU and takes them back, each with one owner.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

export class BlockManager {
  readonly blocks: number;
  readonly block_size: number;
  readonly #free: number[];

  constructor(blocks: number, block_size: number) {
    this.blocks = blocks;
    this.block_size = block_size;
    this.#free = Array.from({ length: blocks }, (_, index) => blocks - 1 - index);
  }

  get used(): number {
    return this.blocks - this.#free.length;
  }

  blocksFor(positions: number): number {
    return Math.ceil(positions / this.block_size);
  }

  canAllocate(count: number): boolean {
    return count <= this.#free.length;
  }

  allocate(count: number): number[] {
    assert(this.canAllocate(count), `${count} KV blocks asked for, ${this.#free.length} are free`);
    return Array.from({ length: count }, () => this.#free.pop() as number);
  }

  free(blocks: readonly number[]): void {
    this.#free.push(...blocks);
    assert(this.#free.length <= this.blocks, 'a KV block was freed twice');
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const { blocks, block_size, used } = this;
    return { blocks, block_size, used, free: [...this.#free] };
  }
}
