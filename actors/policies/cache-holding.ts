/**
 * What a sequence holds of the relational tensor cache: its block table, and what the cache knows of it.
 * @module
 */
import type { Context } from './context-index.ts';
import type { PrefixNode, RememberedNode } from './prefix-nodes.ts';
import type { Tail } from './prompt-tails.ts';

export type Holding = {
  readonly space: string;
  /** In the order of positions. */
  readonly blocks: number[];
  /** The tree's nodes of its first blocks, pinned. Those behind are its own alone, but for a tail. */
  readonly path: PrefixNode[];
  /** So many of the first positions have their KV in HBM, as far as the cache knows. */
  known: number;
  /** Nodes behind them whose blocks lie in DRAM: Populate brings them. */
  swapped: readonly RememberedNode[];
  /** What comes next is being moved by this transfer, and is not matched until its end; 0: it is not. */
  awaited: number;
  populating: 'none' | 'copying' | 'done' | 'failed';
  tail: Tail | null;
  ownsTail: boolean;
  /** Blocks that stand in for those of nodes on its path that went bad: its own. */
  readonly stand_ins: number[];
  context: Context | null;
};

/** Of a path whose blocks those are, the first `known` positions. */
export const holdingOf = (space: string, path: PrefixNode[], blocks: number[], known: number): Holding => ({
  space,
  blocks,
  path,
  known,
  swapped: [],
  awaited: 0,
  populating: 'none',
  tail: null,
  ownsTail: false,
  stand_ins: [],
  context: null,
});

export const emptyHolding = (space: string): Holding => holdingOf(space, [], [], 0);

/** How KV is computed: one way so far. Blocks that were computed otherwise must not meet these. */
const NUMERICS = 'default';

/** Prefixes meet only within one space: computed alike, for the same tenant (`cache_salt`) or adapter. */
export const cacheSpace = (owner: string): string => `${NUMERICS}/${owner}`;
