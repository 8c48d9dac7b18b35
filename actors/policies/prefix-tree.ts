/**
 * Which KV blocks hold which tokens: a radix tree whose edges are whole blocks of tokens, since only whole blocks are shared.
 * A block's KV depends on all tokens before it too, so a path from a root is what names it.
 *
 * A node is found in one table by a hash of all tokens up to its end, and then held against its parent and its own tokens: so where a block's node lies does
 * not wait for where its parent's does, and the core fetches those of a prompt side by side. What else there is to know of a node is in prefix-nodes.ts;
 * who may move or go is not the tree's affair (kv-tiers.ts).
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import { BlockTokens } from './block-tokens.ts';
import { NO_NODE, type PrefixNode, PrefixNodes } from './prefix-nodes.ts';

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
/** Of the second hash that a name takes its other bits from. */
const OTHER_PRIME = 0x5bd1e995;
const HIGH_BITS = 0x1fffff;
/**
 * Blocks whose nodes a match reaches for at once. One by one takes 16 % longer in a tree of 100 k nodes, eight at once no less; and what is hashed of a prompt
 * that nobody knows is so much.
 */
const AHEAD = 4;

export class PrefixTree {
  readonly nodes: PrefixNodes;
  readonly #block_size: number;
  /** Prefixes that must not meet, such as those of different tenants. */
  readonly #roots = new Map<string, PrefixNode>();
  readonly #spaces = new Map<PrefixNode, string>();
  readonly #tokens: BlockTokens;
  readonly #numerics: string;
  /** The first node of each chain, by the low part of its name: a power of two, and at least as many chains as blocks. */
  readonly #chains: Int32Array;
  /** Of the blocks that `match` looks ahead to. */
  readonly #hashes = new Int32Array(AHEAD);
  readonly #candidates = new Int32Array(AHEAD);
  #size = 0;

  /**
   * `blocks`: that there are, in all tiers; room is made for their nodes at once, so that no step waits for that later.
   * `numerics`: by which its KV comes about; blocks of other numerics have other names, '' as the model has them.
   */
  constructor(block_size: number, blocks: number, numerics = '') {
    this.#block_size = block_size;
    this.nodes = new PrefixNodes(blocks);
    let chains = 1;
    while (chains < blocks) chains *= 2;
    this.#chains = new Int32Array(chains);
    this.#numerics = numerics;
    this.#tokens = new BlockTokens(block_size);
  }

  /** Blocks that the tree names. */
  get size(): number {
    return this.#size;
  }

  /** The nodes of the longest prefix of whole blocks within the first `positions` tokens, behind a path that is known already. */
  match(space: string, tokens: readonly number[], positions: number, path: PrefixNode[] = []): PrefixNode[] {
    const size = this.#block_size;
    let parent = path.at(-1) ?? this.#roots.get(space) ?? NO_NODE;
    let at = path.length * size;
    while (parent !== NO_NODE && at + size <= positions) {
      const count = Math.min(AHEAD, Math.floor((positions - at) / size));
      this.#lookAhead(parent, tokens, at, count);
      for (let index = 0; index < count && parent !== NO_NODE; index++, at += size) {
        parent = this.#childAmong(this.#candidates[index] as PrefixNode, this.#hashes[index] as number, parent, tokens, at);
        if (parent !== NO_NODE) path.push(parent);
      }
    }
    return path;
  }

  /** The node of the tokens from position `at` on, one block behind the path, or `NO_NODE`. */
  find(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number): PrefixNode {
    const parent = path.at(-1) ?? this.#roots.get(space);
    return parent === undefined ? NO_NODE : this.#childOf(parent, tokens, at);
  }

  /** Whether the last node of a path is out of the tree: what follows it is not found then, and not kept. */
  isCutOff(path: readonly PrefixNode[]): boolean {
    const last = path.at(-1);
    return last !== undefined && this.nodes.isGone(last);
  }

  /** Names those tokens' block, one behind the path, where `find` finds none. It is pinned once. */
  add(space: string, path: readonly PrefixNode[], tokens: readonly number[], at: number): PrefixNode {
    const { nodes } = this;
    assert(!this.isCutOff(path), 'what is named follows a block that the tree knows');
    const parent = path.at(-1) ?? this.#rootOf(space);
    const node = nodes.take();
    nodes.low[node] = lowBehind(nodes.low[parent] as number, hashOf(tokens, at, this.#block_size));
    nodes.high[node] = highBehind(nodes.high[parent] as number, tokens, at, this.#block_size);
    nodes.parent[node] = parent;
    nodes.pins[node] = 1;
    this.#tokens.put(node, tokens, at);
    this.#size++;
    this.#enterTable(node);
    this.#enterFamily(node, parent);
    return node;
  }

  /** Whether a node's tokens are those from position `at` on. */
  holds(node: PrefixNode, tokens: readonly number[], at: number): boolean {
    return this.#tokens.equal(node, tokens, at);
  }

  isLeaf(node: PrefixNode): boolean {
    return this.nodes.firstChild[node] === NO_NODE;
  }

  /** Forgets a node that has no children. */
  remove(node: PrefixNode): void {
    const { nodes } = this;
    const parent = nodes.parent[node] as PrefixNode;
    assert(parent !== NO_NODE && !nodes.isGone(node) && this.isLeaf(node), 'what is taken from the tree is a leaf of it');
    this.#leaveTable(node);
    this.#leaveFamily(node, parent);
    nodes.leave(node);
    this.#size--;
    const space = this.#spaces.get(parent);
    if (space !== undefined && this.isLeaf(parent)) this.#removeRoot(parent, space);
  }

  /** A node and all below it, each before its children. */
  below(node: PrefixNode): PrefixNode[] {
    const found = [node];
    for (let at = 0; at < found.length; at++) this.#pushChildren(found[at] as PrefixNode, found);
    return found;
  }

  /** All nodes, each before its children. */
  all(): PrefixNode[] {
    const found: PrefixNode[] = [];
    for (const root of this.#roots.values()) this.#pushChildren(root, found);
    for (let at = 0; at < found.length; at++) this.#pushChildren(found[at] as PrefixNode, found);
    return found;
  }

  /** What KV events call it: a hash of all tokens up to its end, of its space and of the numerics; 53 bits. */
  nameOf(node: PrefixNode): number {
    return (this.nodes.high[node] as number) * 2 ** 32 + ((this.nodes.low[node] as number) >>> 0);
  }

  /** The name of the block before it; null: it is the first of its prefix. */
  nameOfParent(node: PrefixNode): number | null {
    const parent = this.nodes.parent[node] as PrefixNode;
    // A root holds no block.
    return this.#spaces.has(parent) ? null : this.nameOf(parent);
  }

  /** Puts its block's tokens behind those that are in the list. */
  addTokens(node: PrefixNode, list: number[]): void {
    this.#tokens.addTo(list, node);
  }

  // ---------------------------------------------------------------- roots

  #rootOf(space: string): PrefixNode {
    const known = this.#roots.get(space);
    if (known !== undefined) return known;
    const root = this.nodes.take();
    const text = this.#numerics === '' ? space : `${this.#numerics}\n${space}`;
    const letters = Array.from({ length: text.length }, (_, at) => text.charCodeAt(at));
    this.nodes.low[root] = hashOf(letters, 0, letters.length);
    this.nodes.high[root] = highBehind(0, letters, 0, letters.length);
    this.#roots.set(space, root);
    this.#spaces.set(root, space);
    return root;
  }

  #removeRoot(root: PrefixNode, space: string): void {
    this.#roots.delete(space);
    this.#spaces.delete(root);
    this.nodes.leave(root);
    this.nodes.giveBack(root);
  }

  // ---------------------------------------------------------------- children, in the order in which they came

  #enterFamily(node: PrefixNode, parent: PrefixNode): void {
    const { firstChild, lastChild, elder, younger } = this.nodes;
    const last = lastChild[parent] as PrefixNode;
    elder[node] = last;
    if (last === NO_NODE) firstChild[parent] = node;
    else younger[last] = node;
    lastChild[parent] = node;
  }

  #leaveFamily(node: PrefixNode, parent: PrefixNode): void {
    const { firstChild, lastChild, elder, younger } = this.nodes;
    const [before, behind] = [elder[node] as PrefixNode, younger[node] as PrefixNode];
    if (before === NO_NODE) firstChild[parent] = behind;
    else younger[before] = behind;
    if (behind === NO_NODE) lastChild[parent] = before;
    else elder[behind] = before;
  }

  #pushChildren(node: PrefixNode, found: PrefixNode[]): void {
    const { firstChild, younger } = this.nodes;
    for (let child = firstChild[node] as PrefixNode; child !== NO_NODE; child = younger[child] as PrefixNode) found.push(child);
  }

  // ---------------------------------------------------------------- the table

  #childOf(parent: PrefixNode, tokens: readonly number[], at: number): PrefixNode {
    const hash = lowBehind(this.nodes.low[parent] as number, hashOf(tokens, at, this.#block_size));
    return this.#childAmong(this.#chains[this.#chainOf(hash)] as PrefixNode, hash, parent, tokens, at);
  }

  /** From a node of their chain on, the one that holds those tokens behind that parent. */
  #childAmong(first: PrefixNode, hash: number, before: PrefixNode, tokens: readonly number[], at: number): PrefixNode {
    const { low, parent, chained } = this.nodes;
    for (let node = first; node !== NO_NODE; node = chained[node] as PrefixNode)
      if (low[node] === hash && parent[node] === before && this.#tokens.equal(node, tokens, at)) return node;
    return NO_NODE;
  }

  /** Where the nodes of so many blocks lie if the tree has them. Nothing here waits for what the block before has found. */
  #lookAhead(parent: PrefixNode, tokens: readonly number[], at: number, count: number): void {
    const { low, chained } = this.nodes;
    const [hashes, candidates, size] = [this.#hashes, this.#candidates, this.#block_size];
    let hash = low[parent] as number;
    for (let index = 0; index < count; index++) {
      hash = lowBehind(hash, hashOf(tokens, at + index * size, size));
      hashes[index] = hash;
    }
    for (let index = 0; index < count; index++) {
      hash = hashes[index] as number;
      let node = this.#chains[this.#chainOf(hash)] as PrefixNode;
      while (node !== NO_NODE && low[node] !== hash) node = chained[node] as PrefixNode;
      candidates[index] = node;
    }
  }

  #chainOf(low: number): number {
    return (low ^ (low >>> 16)) & (this.#chains.length - 1);
  }

  #enterTable(node: PrefixNode): void {
    const chain = this.#chainOf(this.nodes.low[node] as number);
    this.nodes.chained[node] = this.#chains[chain] as PrefixNode;
    this.#chains[chain] = node;
  }

  #leaveTable(node: PrefixNode): void {
    const { low, chained } = this.nodes;
    const chain = this.#chainOf(low[node] as number);
    let before = this.#chains[chain] as PrefixNode;
    if (before === node) {
      this.#chains[chain] = chained[node] as PrefixNode;
      return;
    }
    while (before !== NO_NODE && chained[before] !== node) before = chained[before] as PrefixNode;
    assert(before !== NO_NODE, 'a cached block is not in the table');
    chained[before] = chained[node] as PrefixNode;
  }
}

/** Of one block of tokens. */
function hashOf(tokens: readonly number[], at: number, block_size: number): number {
  let hash = FNV_OFFSET;
  for (let index = at; index < at + block_size; index++) hash = Math.imul(hash ^ (tokens[index] as number), FNV_PRIME);
  return hash | 0;
}

/** A name's parts: two hashes of all tokens up to a block's end, each going on from the parent's. */
const lowBehind = (low: number, hash: number): number => Math.imul(low ^ hash, FNV_PRIME) ^ (hash >>> 15);

function highBehind(high: number, tokens: readonly number[], at: number, count: number): number {
  let hash = high ^ FNV_OFFSET;
  for (let index = at; index < at + count; index++) {
    hash = Math.imul(hash ^ (tokens[index] as number), OTHER_PRIME);
    hash ^= hash >>> 13;
  }
  return hash & HIGH_BITS;
}
