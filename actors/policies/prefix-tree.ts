/**
 * Which KV blocks hold which tokens: a radix tree whose edges are whole blocks of tokens, since only whole blocks are shared.
 * A block's KV depends on all tokens before it too, so a path from a root is what names it.
 *
 * Who uses a path pins each of its nodes; a node that nobody pins may go, the one longest unused first and a child before its parent.
 * Nothing here is slower in a larger tree: children are found by their hash, and whoever may go stands in one queue in that order.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

export type PrefixNode = {
  readonly space: string;
  readonly parent: PrefixNode | null;
  /** Of this block alone. */
  readonly tokens: readonly number[];
  readonly hash: number;
  block: number;
  /** By hash of their tokens; those of equal hashes follow each other. */
  readonly children: Map<number, PrefixNode>;
  twin: PrefixNode | null;
  pins: number;
  /** Its neighbours among those that nobody pins: who goes before it, and after. */
  older: PrefixNode | null;
  newer: PrefixNode | null;
};

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
const NO_BLOCK = -1;

export class PrefixTree {
  readonly #block_size: number;
  /** Prefixes that must not meet, such as those of different tenants. */
  readonly #roots = new Map<string, PrefixNode>();
  /** Who goes first and last of those that nobody pins. A node stands behind its children, which come to life, and are used, with it pinned. */
  #oldest: PrefixNode | null = null;
  #newest: PrefixNode | null = null;
  #unpinned = 0;
  #size = 0;

  constructor(block_size: number) {
    this.#block_size = block_size;
  }

  /** Blocks that the tree names. */
  get size(): number {
    return this.#size;
  }

  /** Of them, those that may go. */
  get unpinned(): number {
    return this.#unpinned;
  }

  /** Spaces that have any. */
  get spaces(): number {
    return this.#roots.size;
  }

  /** The nodes of the longest prefix of whole blocks within the first `positions` tokens. */
  match(space: string, tokens: readonly number[], positions: number): PrefixNode[] {
    const path: PrefixNode[] = [];
    let node = this.#roots.get(space) ?? null;
    for (let at = 0; node !== null && at + this.#block_size <= positions; at += this.#block_size) {
      node = this.#childOf(node, tokens, at, this.#hash(tokens, at));
      if (node !== null) path.push(node);
    }
    return path;
  }

  /** Pins a path, which then stays. */
  pin(path: readonly PrefixNode[]): void {
    for (const node of path) if (node.pins++ === 0) this.#leave(node);
  }

  unpin(path: readonly PrefixNode[]): void {
    for (let depth = path.length - 1; depth >= 0; depth--) {
      const node = path[depth] as PrefixNode;
      assert(node.pins > 0, 'a cached block is let go of more often than it was used');
      if (--node.pins === 0) this.#join(node);
    }
  }

  /** The node of the tokens from position `at` on, one block behind the path; null: there is none. */
  find(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number): PrefixNode | null {
    const parent = path.at(-1) ?? this.#roots.get(space);
    return parent === undefined ? null : this.#childOf(parent, tokens, at, this.#hash(tokens, at));
  }

  /** Names those tokens' block, one behind the pinned path, where `find` finds none. It is pinned too. */
  add(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number, block: number): PrefixNode {
    const parent = path.at(-1) ?? this.#rootOf(space);
    const hash = this.#hash(tokens, at);
    const node: PrefixNode = {
      space,
      parent,
      tokens: tokens.slice(at, at + this.#block_size),
      hash,
      block,
      children: new Map(),
      twin: parent.children.get(hash) ?? null,
      pins: 1,
      older: null,
      newer: null,
    };
    parent.children.set(hash, node);
    this.#size++;
    return node;
  }

  /** Forgets the node that is to go first; its block holds nothing any more. */
  evict(): number {
    const node = this.#oldest;
    assert(node !== null && node.children.size === 0, 'no cached block may go');
    this.#leave(node);
    this.#unlink(node);
    return node.block;
  }

  /** Forgets all that nobody uses. Blocks in use stay with who uses them. */
  drop(): number[] {
    const blocks: number[] = [];
    while (this.#unpinned > 0) blocks.push(this.evict());
    return blocks;
  }

  #join(node: PrefixNode): void {
    node.older = this.#newest;
    if (this.#newest === null) this.#oldest = node;
    else this.#newest.newer = node;
    this.#newest = node;
    this.#unpinned++;
  }

  #leave(node: PrefixNode): void {
    const { older, newer } = node;
    if (older === null) this.#oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    node.older = null;
    node.newer = null;
    this.#unpinned--;
  }

  #unlink(node: PrefixNode): void {
    const { parent, hash, twin } = node;
    assert(parent !== null, 'a root holds no block');
    const first = parent.children.get(hash);
    if (first === node) {
      if (twin === null) parent.children.delete(hash);
      else parent.children.set(hash, twin);
    } else {
      let before = first;
      while (before !== undefined && before.twin !== node) before = before.twin ?? undefined;
      assert(before, 'a cached block is not under its parent');
      before.twin = twin;
    }
    this.#size--;
    if (parent.parent === null && parent.children.size === 0) this.#roots.delete(node.space);
  }

  #rootOf(space: string): PrefixNode {
    let root = this.#roots.get(space);
    if (root === undefined) {
      root = { space, parent: null, tokens: [], hash: 0, block: NO_BLOCK, children: new Map(), twin: null, pins: 0, older: null, newer: null };
      this.#roots.set(space, root);
    }
    return root;
  }

  #childOf(parent: PrefixNode, tokens: readonly number[], at: number, hash: number): PrefixNode | null {
    let node = parent.children.get(hash) ?? null;
    while (node !== null && !this.#holds(node, tokens, at)) node = node.twin;
    return node;
  }

  #holds(node: PrefixNode, tokens: readonly number[], at: number): boolean {
    for (let index = 0; index < this.#block_size; index++) if (node.tokens[index] !== tokens[at + index]) return false;
    return true;
  }

  #hash(tokens: readonly number[], at: number): number {
    let hash = FNV_OFFSET;
    for (let index = at; index < at + this.#block_size; index++) hash = Math.imul(hash ^ (tokens[index] as number), FNV_PRIME);
    return hash | 0;
  }
}
