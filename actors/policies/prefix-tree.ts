/**
 * Which KV blocks hold which tokens: a radix tree whose edges are whole blocks of tokens, since only whole blocks are shared.
 * A block's KV depends on all tokens before it too, so a path from a root is what names it.
 *
 * A node says where its block lies: in the NPU's HBM, in host DRAM, in both, or on its way between them. Who may move or go is not the tree's affair
 * (kv-tiers.ts). Nothing here is slower in a larger tree: children are found by their hash.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import { BlockTokens } from './block-tokens.ts';
import type { Standing, UsageOrder } from './usage-order.ts';

export const NO_BLOCK = -1;
const NO_PLACE = -1;

export class PrefixNode implements Standing<PrefixNode> {
  // What a match looks at and changes stands first: it is next to each other in memory then.
  readonly hash: number;
  /** Its child, or children by hash of their tokens: most have one at most, and a map of its own is more memory to look at than all the rest. */
  children: PrefixNode | Map<number, PrefixNode> | null = null;
  /** The next of its parent's children that has the same hash. */
  twin: PrefixNode | null = null;
  /** Where its tokens are to be compared; a root has none. */
  readonly place: number;
  /** Its block in each tier, or `NO_BLOCK`. */
  hbm = NO_BLOCK;
  dram = NO_BLOCK;
  /** The transfer that copies its block right now; 0: none does. */
  moving = 0;
  /** Sequences that use it, and contexts that ask for it to be kept. */
  pins = 0;
  keeps = 0;
  /** It was used since it was copied to DRAM. */
  isUsedAgain = false;
  /** It is no longer in the tree. */
  isGone = false;
  order: UsageOrder<PrefixNode> | null = null;
  older: Standing<PrefixNode> | null = null;
  newer: Standing<PrefixNode> | null = null;
  /** Its standing among those that may leave HBM: itself, since each block that is matched is looked at. */
  readonly item: PrefixNode = this;
  /** Where there is DRAM: among those without a copy, and among those that may leave it. */
  uncopied: Standing<PrefixNode> | null = null;
  inDram: Standing<PrefixNode> | null = null;
  readonly space: string;
  readonly parent: PrefixNode | null;
  /** Of this block alone. */
  readonly tokens: readonly number[];
  /** What KV events call it: a hash of all tokens up to its end, of its space and of the numerics; 53 bits. */
  readonly name: number;

  constructor(space: string, parent: PrefixNode | null, tokens: readonly number[], place: number, hash: number, name: number) {
    this.space = space;
    this.parent = parent;
    this.tokens = tokens;
    this.place = place;
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
  readonly #tokens: BlockTokens;
  readonly #numerics: string;
  #size = 0;

  /** `numerics`: by which its KV comes about; blocks of other numerics have other names, '' as the model has them. */
  constructor(block_size: number, numerics = '') {
    this.#block_size = block_size;
    this.#numerics = numerics;
    this.#tokens = new BlockTokens(block_size);
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
    const node = new PrefixNode(space, parent, own, this.#tokens.add(tokens, at), hash, nameOf(parent.name, hash, own));
    node.twin = firstOf(parent, hash);
    node.pins = 1;
    putFirst(parent, hash, node);
    this.#size++;
    return node;
  }

  /** Whether a node's tokens are those from position `at` on. */
  holds(node: PrefixNode, tokens: readonly number[], at: number): boolean {
    return this.#tokens.equal(node.place, tokens, at);
  }

  /** Forgets a node that has no children. */
  remove(node: PrefixNode): void {
    const { parent, hash, twin } = node;
    assert(parent !== null && isLeaf(node), 'what is taken from the tree is a leaf of it');
    let before = firstOf(parent, hash);
    if (before === node) putFirst(parent, hash, twin);
    else {
      while (before !== null && before.twin !== node) before = before.twin;
      assert(before, 'a cached block is not under its parent');
      before.twin = twin;
    }
    node.isGone = true;
    this.#tokens.remove(node.place);
    this.#size--;
    if (parent.parent === null && isLeaf(parent)) this.#roots.delete(node.space);
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
        NO_PLACE,
        0,
        nameOf(
          0,
          0,
          [...(this.#numerics === '' ? space : `${this.#numerics}\n${space}`)].map((letter) => letter.charCodeAt(0)),
        ),
      );
      this.#roots.set(space, root);
    }
    return root;
  }

  #childOf(parent: PrefixNode, tokens: readonly number[], at: number, hash: number): PrefixNode | null {
    let node = firstOf(parent, hash);
    while (node !== null && !this.holds(node, tokens, at)) node = node.twin;
    return node;
  }

  #hash(tokens: readonly number[], at: number): number {
    let hash = FNV_OFFSET;
    for (let index = at; index < at + this.#block_size; index++) hash = Math.imul(hash ^ (tokens[index] as number), FNV_PRIME);
    return hash | 0;
  }
}

export const isLeaf = ({ children }: PrefixNode): boolean => children === null;

/** The first of the children with that hash. */
function firstOf({ children }: PrefixNode, hash: number): PrefixNode | null {
  if (children instanceof PrefixNode) return children.hash === hash ? children : null;
  return children?.get(hash) ?? null;
}

/** Puts another one there; null: nobody is left with that hash. */
function putFirst(parent: PrefixNode, hash: number, first: PrefixNode | null): void {
  const { children } = parent;
  if (children === null || (children instanceof PrefixNode && children.hash === hash)) parent.children = first;
  else {
    const map = children instanceof PrefixNode ? new Map([[children.hash, children]]) : children;
    if (first !== null) map.set(hash, first);
    else map.delete(hash);
    parent.children = map.size === 0 ? null : map;
  }
}

function pushChildren({ children }: PrefixNode, found: PrefixNode[]): void {
  const firsts = children === null ? [] : children instanceof PrefixNode ? [children] : children.values();
  for (const first of firsts) for (let child: PrefixNode | null = first; child !== null; child = child.twin) found.push(child);
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
