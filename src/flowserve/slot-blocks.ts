/** KV blocks that an NPU holds for the sequences in its slots. @module */
import type { BlockPool } from '../fabric/block-pool.ts';
import type { StepEntry } from '../protocol/steps.ts';

export class SlotBlocks {
  readonly pool: BlockPool;
  readonly #tables = new Map<number, number[]>();

  constructor(pool: BlockPool) {
    this.pool = pool;
  }

  /** By slot: its blocks, in the order of positions. */
  get tables(): ReadonlyMap<number, readonly number[]> {
    return this.#tables;
  }

  of(slot: number): readonly number[] {
    return this.#tables.get(slot) ?? [];
  }

  hold({ slot, blocks, shared }: Pick<StepEntry, 'slot' | 'blocks' | 'shared'>): void {
    const held = this.#tables.get(slot) ?? [];
    this.#tables.set(slot, held);
    blocks.forEach((block, index) => {
      if (index < shared) this.pool.share(block);
      else this.pool.hold(block);
      // One by one: where one fails, a reset frees those before it.
      held.push(block);
    });
  }

  free(slot: number): void {
    for (const block of this.of(slot)) this.pool.free(block);
    this.#tables.delete(slot);
  }

  freeAll(): void {
    for (const slot of [...this.#tables.keys()]) this.free(slot);
  }
}
