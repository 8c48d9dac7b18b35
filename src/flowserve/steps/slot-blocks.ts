/** KV blocks that an NPU holds for the sequences in its slots. @module */
import type { BlockPool } from '../../fabric/block-pool.ts';
import type { StepEntry } from '../../protocol/steps.ts';

export type SlotTables = readonly (readonly number[] | undefined)[];
const NONE: readonly number[] = [];

export class SlotBlocks {
  readonly pool: BlockPool;
  readonly #tables: (number[] | undefined)[] = [];

  constructor(pool: BlockPool) {
    this.pool = pool;
  }

  /** By slot: its blocks, in the order of positions. Slots are small numbers, and are asked for several times a step each. */
  get tables(): SlotTables {
    return this.#tables;
  }

  of(slot: number): readonly number[] {
    return this.#tables[slot] ?? NONE;
  }

  hold({ slot, blocks, shared }: Pick<StepEntry, 'slot' | 'blocks' | 'shared'>): void {
    const held = this.#tables[slot] ?? [];
    this.#tables[slot] = held;
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
    this.#tables[slot] = undefined;
  }

  freeAll(): void {
    for (let slot = 0; slot < this.#tables.length; slot++) this.free(slot);
  }
}
