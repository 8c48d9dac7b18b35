/**
 * Which KV blocks hold which tokens: a radix tree whose edges are whole blocks of tokens, since only whole blocks are shared.
 * A block's KV depends on all tokens before it too, so a path from a root is what names it.
 *
 * A node says where its block lies: in the NPU's HBM, in host DRAM, in both, or on its way between them. Who may move or go is not the tree's affair
 * (kv-tiers.ts). Nothing here is slower in a larger tree: children are found by their hash.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import type { Standing, UsageOrder } from './usage-order.ts';

export const NO_BLOCK = -1;

export class PrefixNode implements Standing<PrefixNode> {
  readonly space: string;
  readonly parent: PrefixNode | null;
  /** Of this block alone. */
  readonly tokens: readonly number[];
  readonly hash: number;
  /** What KV events call it: a hash of all tokens up to its end, and of its space; 53 bits. */
  readonly name: number;
  /** By hash of their tokens; those of equal hashes follow each other. */
  readonly children = new Map<number, PrefixNode>();
  twin: PrefixNode | null = null;
  /** Its block in each tier, or `NO_BLOCK`. */
  hbm = NO_BLOCK;
  dram = NO_BLOCK;
  /** Sequences that use it, and contexts that ask for it to be kept. */
  pins = 0;
  keeps = 0;
  /** The transfer that copies its block right now; 0: none does. */
  moving = 0;
  /** It was used since it was copied to DRAM. */
  isUsedAgain = false;
  /** It is no longer in the tree. */
  isGone = false;
  /** Its standing among those that may leave HBM: itself, since each block that is matched is looked at. */
  readonly item: PrefixNode = this;
  order: UsageOrder<PrefixNode> | null = null;
  older: Standing<PrefixNode> | null = null;
  newer: Standing<PrefixNode> | null = null;
  /** Where there is DRAM: among those without a copy, and among those that may leave it. */
  uncopied: Standing<PrefixNode> | null = null;
  inDram: Standing<PrefixNode> | null = null;

  constructor(space: string, parent: PrefixNode | null, tokens: readonly number[], hash: number, name: number) {
    this.space = space;
    this.parent = parent;
    this.tokens = tokens;
    this.hash = hash;
    this.name = name;
  }
}

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
/** Of the second hash that a name takes its other bits from. */
const OTHER_PRIME = 0x5bd1e995;
const HIGH_BITS = 0x1fffff;
export class PrefixTree {
  readonly #block_size: number;
  /** Prefixes that must not meet, such as those of different tenants. */
  readonly #roots = new Map<string, PrefixNode>();
  #size = 0;

  constructor(block_size: number) {
    this.#block_size = block_size;
  }

  /** Blocks that the tree names. */
  get size(): number {
    return this.#size;
  }

  /** Spaces that have any. */
  get spaces(): number {
    return this.#roots.size;
  }

  /** The nodes of the longest prefix of whole blocks within the first `positions` tokens, behind a path that is known already. */
  match(space: string, tokens: readonly number[], positions: number, path: PrefixNode[] = []): PrefixNode[] {
    let node: PrefixNode | null = path.at(-1) ?? this.#roots.get(space) ?? null;
    for (let at = path.length * this.#block_size; node !== null && at + this.#block_size <= positions; at += this.#block_size) {
      node = this.#childOf(node, tokens, at, this.#hash(tokens, at));
      if (node !== null) path.push(node);
    }
    return path;
  }

  /** The node of the tokens from position `at` on, one block behind the path; null: there is none. */
  find(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number): PrefixNode | null {
    const parent = path.at(-1) ?? this.#roots.get(space);
    return parent === undefined ? null : this.#childOf(parent, tokens, at, this.#hash(tokens, at));
  }

  /** Names those tokens' block, one behind the path, where `find` finds none. It is pinned once. */
  add(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number): PrefixNode {
    const parent = path.at(-1) ?? this.#rootOf(space);
    const own = tokens.slice(at, at + this.#block_size);
    const hash = this.#hash(tokens, at);
    const node = new PrefixNode(space, parent, own, hash, nameOf(parent.name, hash, own));
    node.twin = parent.children.get(hash) ?? null;
    node.pins = 1;
    parent.children.set(hash, node);
    this.#size++;
    return node;
  }

  /** Whether a node's tokens are those from position `at` on. */
  holds(node: PrefixNode, tokens: readonly number[], at: number): boolean {
    for (let index = 0; index < this.#block_size; index++) if (node.tokens[index] !== tokens[at + index]) return false;
    return true;
  }

  /** Forgets a node that has no children. */
  remove(node: PrefixNode): void {
    const { parent, hash, twin } = node;
    assert(parent !== null && node.children.size === 0, 'what is taken from the tree is a leaf of it');
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
    node.isGone = true;
    this.#size--;
    if (parent.parent === null && parent.children.size === 0) this.#roots.delete(node.space);
  }

  /** A node and all below it, each before its children. */
  below(node: PrefixNode): PrefixNode[] {
    const found = [node];
    for (let at = 0; at < found.length; at++) pushChildren(found[at] as PrefixNode, found);
    return found;
  }

  /** All nodes, each before its children. */
  all(): PrefixNode[] {
    const found: PrefixNode[] = [];
    for (const root of this.#roots.values()) pushChildren(root, found);
    for (let at = 0; at < found.length; at++) pushChildren(found[at] as PrefixNode, found);
    return found;
  }

  #rootOf(space: string): PrefixNode {
    let root = this.#roots.get(space);
    if (root === undefined) {
      root = new PrefixNode(
        space,
        null,
        [],
        0,
        nameOf(
          0,
          0,
          [...space].map((letter) => letter.charCodeAt(0)),
        ),
      );
      this.#roots.set(space, root);
    }
    return root;
  }

  #childOf(parent: PrefixNode, tokens: readonly number[], at: number, hash: number): PrefixNode | null {
    let node = parent.children.get(hash) ?? null;
    while (node !== null && !this.holds(node, tokens, at)) node = node.twin;
    return node;
  }

  #hash(tokens: readonly number[], at: number): number {
    let hash = FNV_OFFSET;
    for (let index = at; index < at + this.#block_size; index++) hash = Math.imul(hash ^ (tokens[index] as number), FNV_PRIME);
    return hash | 0;
  }
}

function pushChildren(node: PrefixNode, found: PrefixNode[]): void {
  for (const first of node.children.values()) for (let child: PrefixNode | null = first; child !== null; child = child.twin) found.push(child);
}

/** Two 32-bit hashes of the tokens, each going on from the parent's. */
function nameOf(parent: number, hash: number, tokens: readonly number[]): number {
  const low = Math.imul(parent ^ hash, FNV_PRIME) ^ (hash >>> 15);
  let high = Math.floor(parent / 2 ** 32) ^ FNV_OFFSET;
  for (const token of tokens) {
    high = Math.imul(high ^ token, OTHER_PRIME);
    high ^= high >>> 13;
  }
  return (high & HIGH_BITS) * 2 ** 32 + (low >>> 0);
}
