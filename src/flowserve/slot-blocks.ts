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

  /** What the entry writes from their beginning on has another content from now on: also what stands in for a block that others share, and was held as if it were theirs. */
  write(
    { slot, start, tokens, kept = 0, first_block, blocks, shared }: Pick<StepEntry, 'slot' | 'start' | 'tokens' | 'kept' | 'first_block' | 'blocks' | 'shared'>,
    block_size: number,
  ): void {
    const held = this.of(slot);
    for (let index = Math.ceil((start + kept) / block_size); index * block_size < start + tokens.length; index++)
      if (index < first_block + shared || index >= first_block + blocks.length) this.pool.renew(held[index] as number);
  }

  free(slot: number): void {
    for (const block of this.of(slot)) this.pool.free(block);
    this.#tables.delete(slot);
  }

  freeAll(): void {
    for (const slot of [...this.#tables.keys()]) this.free(slot);
  }
}
