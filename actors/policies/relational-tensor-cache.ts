/**
 * The relational tensor cache (RTC) of one DP group: which KV block holds what, who uses it, and what can be used again (DeepServe §4.3).
 * Block table, prefix tree and reference counts are one module, so that a block is given out, shared, kept and given away under one account:
 *
 *   free ─▶ held by one sequence, which writes it ─▶ whole: in the prefix tree, used by any number ─▶ by none: kept, until its room is needed ─▶ free
 *
 * What it keeps is soft: dropping all of it changes no token, only how often they are computed.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import { type PrefixNode, PrefixTree } from './prefix-tree.ts';

/** What a sequence holds: its block table, and of it what the prefix tree names. */
export type Holding = {
  readonly space: string;
  /** In the order of positions. */
  readonly blocks: number[];
  /** The tree's nodes of its first blocks, pinned. Those behind are its own alone. */
  readonly path: PrefixNode[];
};

export type CacheSizes = { readonly blocks: number; readonly block_size: number };

export class RelationalTensorCache {
  readonly blocks: number;
  readonly block_size: number;
  readonly #tree: PrefixTree;
  readonly #free: number[];
  /** Prompt positions that were looked up, and found. */
  positions_queried = 0;
  positions_hit = 0;
  evictions = 0;

  constructor({ blocks, block_size }: CacheSizes) {
    this.blocks = blocks;
    this.block_size = block_size;
    this.#tree = new PrefixTree(block_size);
    this.#free = Array.from({ length: blocks }, (_, index) => blocks - 1 - index);
  }

  /** Blocks that sequences hold. */
  get used(): number {
    return this.blocks - this.#free.length - this.#tree.unpinned;
  }

  /** Blocks that are kept for whoever may come. */
  get cached(): number {
    return this.#tree.unpinned;
  }

  blocksFor(positions: number): number {
    return Math.ceil(positions / this.block_size);
  }

  canAllocate(count: number): boolean {
    return count <= this.#free.length + this.#tree.unpinned;
  }

  /**
   * RTC's MatchByPrefixToken: holds the blocks of the longest known prefix within the first `positions` tokens. `space`: prefixes of others are not seen.
   */
  matchByPrefixToken(space: string, tokens: readonly number[], positions: number): Holding {
    const path = this.#tree.match(space, tokens, positions);
    this.#tree.pin(path);
    return { space, path, blocks: path.map(({ block }) => block) };
  }

  /** RTC's AllocBlocks: `count` more blocks at a holding's end, to be written. */
  allocBlocks(holding: Holding, count: number): readonly number[] {
    assert(this.canAllocate(count), `${count} KV blocks asked for, ${this.#free.length} are free and ${this.#tree.unpinned} kept`);
    const blocks = Array.from({ length: count }, () => this.#allocate());
    holding.blocks.push(...blocks);
    return blocks;
  }

  /** The first `computed` positions of a holding have their KV: whole blocks of them can be used by others from now on. */
  publish({ space, blocks, path }: Holding, tokens: readonly number[], computed: number): void {
    while ((path.length + 1) * this.block_size <= computed) {
      const [at, own] = [path.length * this.block_size, blocks[path.length] as number];
      const known = this.#tree.find(space, path, tokens, at);
      // Another sequence computed the same at the same time and uses its block still. Pinning that one too would take room that nobody needs.
      if (known !== null && known.pins > 0) return;
      path.push(known === null ? this.#tree.add(space, path, tokens, at, own) : this.#replace(known, own));
    }
  }

  /**
   * RTC's Free: what others may use is kept, the rest is free. `computed`: so many of the tokens have their KV, none where it cannot be trusted.
   */
  free({ space, blocks, path }: Holding, tokens: readonly number[] = [], computed = 0): void {
    const own = blocks.slice(path.length);
    for (let block = own.shift(); block !== undefined; block = own.shift()) {
      const at = path.length * this.block_size;
      const known = at + this.block_size <= computed ? this.#tree.find(space, path, tokens, at) : null;
      if (at + this.block_size <= computed && known === null) path.push(this.#tree.add(space, path, tokens, at, block));
      else {
        this.#free.push(block);
        if (known === null) break;
        this.#tree.pin([known]);
        path.push(known);
      }
    }
    this.#free.push(...own);
    this.#tree.unpin(path);
    blocks.length = 0;
    path.length = 0;
    assert(this.#free.length <= this.blocks, 'a KV block was freed twice');
  }

  /** Forgets all that no sequence holds. How many blocks that were. */
  drop(): number {
    const dropped = this.#tree.drop();
    this.#free.push(...dropped);
    return dropped.length;
  }

  /** All of its state but the tree's words: what a snapshot of its owner shows. */
  toJSON(): object {
    const { blocks, block_size, used, cached, positions_queried, positions_hit, evictions } = this;
    return { blocks, block_size, used, cached, positions_queried, positions_hit, evictions, free: [...this.#free] };
  }

  /** A node that nobody uses takes a sequence's own block, and gives up its own. */
  #replace(node: PrefixNode, block: number): PrefixNode {
    this.#free.push(node.block);
    node.block = block;
    this.#tree.pin([node]);
    return node;
  }

  #allocate(): number {
    const block = this.#free.pop();
    if (block !== undefined) return block;
    this.evictions++;
    return this.#tree.evict();
  }
}
