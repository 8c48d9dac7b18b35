/**
 * Where the prefix tree's blocks lie: the NPU's HBM, and host DRAM below it (DeepServe §4.3). Which block is free, and which one goes when room is needed.
 *
 *   HBM:   free ◀── cold, the one unused the longest first ◀── being copied out ◀── kept for a context, only when nothing else may go
 *   DRAM:  free ◀── copies of what HBM has in use again ◀── what lies in DRAM alone, the longest there first
 *
 * A block that leaves HBM lives on in its copy, if it has one; else it is forgotten with all below it, since no prefix leads there any more. A copy of
 * what is cold in HBM is never taken back: copying on would run in circles where DRAM is small. A block that comes goes nowhere. One that is being copied out goes
 * after what is cold, and before that where they would be forgotten together: its copy is given up, and what was to hold it stays nobody's until the copy has
 * ended, so that nobody waits for a slow link.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import type { Medium } from '../../src/protocol/kv-events.ts';
import type { KvEventLog } from './kv-events.ts';
import { NO_BLOCK, NO_NODE, type PrefixNode, type PrefixNodes } from './prefix-nodes.ts';
import type { PrefixTree } from './prefix-tree.ts';
import { NO_LINE, UsageOrder } from './usage-order.ts';

export type TierSizes = { readonly blocks: number; readonly dram_blocks: number };

/** Lines of those whose block of HBM may go. */
const COLD = 1;
const LEAVING = 2;
const KEPT = 3;
const KEPT_LEAVING = 4;
/** Of those that may be copied to DRAM. */
const UNCOPIED = 1;
/** Of those whose block of DRAM may go. */
const SPARE_COPIES = 1;
const IN_DRAM_ALONE = 2;

const freeBlocks = (blocks: number): number[] => Array.from({ length: blocks }, (_, index) => blocks - 1 - index);

export class KvTiers {
  readonly #tree: PrefixTree;
  readonly #nodes: PrefixNodes;
  readonly #events: KvEventLog;
  readonly #sizes: TierSizes;
  readonly #freeHbm: number[];
  readonly #freeDram: number[];
  readonly #inHbm: UsageOrder;
  /** Of cold and kept, those without a copy. */
  readonly #uncopied: UsageOrder;
  readonly #inDram: UsageOrder;
  /** Blocks of HBM, and of DRAM, that are given out no more. */
  readonly #mappedOut = new Set<number>();
  readonly #mappedOutDram = new Set<number>();
  evictions = 0;

  constructor(sizes: TierSizes, tree: PrefixTree, events: KvEventLog) {
    this.#sizes = sizes;
    this.#tree = tree;
    this.#nodes = tree.nodes;
    this.#events = events;
    const { room } = tree.nodes;
    this.#inHbm = new UsageOrder(KEPT_LEAVING, room);
    this.#uncopied = new UsageOrder(UNCOPIED, sizes.dram_blocks === 0 ? 0 : room);
    this.#inDram = new UsageOrder(IN_DRAM_ALONE, sizes.dram_blocks === 0 ? 0 : room);
    this.#freeHbm = freeBlocks(sizes.blocks);
    this.#freeDram = freeBlocks(sizes.dram_blocks);
  }

  /** Blocks of HBM that nobody uses, and that hold what somebody may use. */
  get evictable(): number {
    return this.#inHbm.length(COLD) + this.#inHbm.length(KEPT) + this.#beingCopied();
  }

  /** Blocks of HBM that can be given out. */
  get available(): number {
    return this.#freeHbm.length + this.evictable;
  }

  /** Of them, those that can be given out and nothing is forgotten. */
  get reserve(): number {
    return this.available - this.#uncopied.length(UNCOPIED) - this.#beingCopied();
  }

  /** Blocks of DRAM that can be given out. */
  get available_dram(): number {
    return this.#freeDram.length + this.#inDram.length(SPARE_COPIES) + this.#inDram.length(IN_DRAM_ALONE);
  }

  /** Of those that may go, what is being copied out. (A private getter would be a call into V8's runtime, each time.) */
  #beingCopied(): number {
    return this.#inHbm.length(LEAVING) + this.#inHbm.length(KEPT_LEAVING);
  }

  get free_hbm(): readonly number[] {
    return this.#freeHbm;
  }

  get free_dram(): readonly number[] {
    return this.#freeDram;
  }

  /** Who is copied to DRAM next, if anybody may. */
  get coldest(): PrefixNode {
    return this.#uncopied.oldest(UNCOPIED);
  }

  /** A block of HBM to be written; `available` > 0. */
  takeHbm(): number {
    const free = this.#freeHbm.pop();
    if (free !== undefined) return free;
    const cold = this.#leastLost(COLD, LEAVING);
    const node = cold === NO_NODE ? this.#leastLost(KEPT, KEPT_LEAVING) : cold;
    assert(node !== NO_NODE, 'no block of HBM may go');
    this.evictions++;
    if (this.#nodes.dram[node] !== NO_BLOCK) return this.leaveHbm(node);
    this.forget(node);
    return this.#freeHbm.pop() as number;
  }

  /** A block of DRAM to be written; null: none may go. */
  takeDram(): number | null {
    const free = this.#freeDram.pop();
    if (free !== undefined) return free;
    const copied = this.#inDram.oldest(SPARE_COPIES);
    if (copied !== NO_NODE) return this.#leaveDram(copied);
    const node = this.#inDram.oldest(IN_DRAM_ALONE);
    if (node === NO_NODE) return null;
    this.forget(node);
    return this.#freeDram.pop() as number;
  }

  isMappedOut(block: number): boolean {
    return this.#mappedOut.has(block);
  }

  giveBackHbm(block: number): void {
    if (this.#mappedOut.has(block)) return;
    this.#freeHbm.push(block);
    assert(this.#freeHbm.length <= this.#sizes.blocks - this.mapped_out, 'a KV block was freed twice');
  }

  giveBackDram(block: number): void {
    if (this.#mappedOutDram.has(block)) return;
    this.#freeDram.push(block);
    assert(this.#freeDram.length <= this.#sizes.dram_blocks - this.mapped_out_dram, 'a block of DRAM was freed twice');
  }

  get mapped_out(): number {
    return this.#mappedOut.size;
  }

  get mapped_out_dram(): number {
    return this.#mappedOutDram.size;
  }

  isMappedOutDram(block: number): boolean {
    return this.#mappedOutDram.has(block);
  }

  /** The block of DRAM went bad: nobody gets it any more, nor what it held. A transfer that reads or writes it goes on, and comes to nothing. */
  mapOutDram(block: number): void {
    this.#mappedOutDram.add(block);
    const at = this.#freeDram.indexOf(block);
    if (at >= 0) this.#freeDram.splice(at, 1);
    const { hbm, dram, moving } = this.#nodes;
    const node = this.#tree.all().find((one) => dram[one] === block);
    if (node === undefined || moving[node] !== 0) return;
    if (hbm[node] === NO_BLOCK) this.forget(node);
    else this.#dropCopy(node);
  }

  /**
   * The block went bad: nobody gets it any more, and nobody begins with what it held. Who uses it keeps its node until it lets go. A transfer that writes it, or
   * brings what is reached by it, goes on, and comes to nothing.
   */
  mapOut(block: number): void {
    this.#mappedOut.add(block);
    const at = this.#freeHbm.indexOf(block);
    if (at >= 0) this.#freeHbm.splice(at, 1);
    const node = this.#tree.all().find((one) => this.#nodes.hbm[one] === block);
    if (node === undefined) return;
    for (const below of this.#tree.below(node).reverse()) {
      if (this.#nodes.pins[below] === 0) this.#remove(below);
      else {
        this.#dropCopy(below);
        this.#takeFromTree(below);
      }
    }
  }

  #takeFromTree(node: PrefixNode): void {
    const { hbm, dram } = this.#nodes;
    this.#tree.remove(node);
    this.settle(node);
    if (hbm[node] !== NO_BLOCK) this.#removed(node, 'GPU');
    if (dram[node] !== NO_BLOCK) this.#removed(node, 'CPU');
  }

  /** The block of HBM holds what the node names. The one that it had is given back. */
  enterHbm(node: PrefixNode, block: number): void {
    const { hbm, usedAgain } = this.#nodes;
    const before = hbm[node] as number;
    if (before !== NO_BLOCK) this.giveBackHbm(before);
    else this.#stored(node, 'GPU');
    hbm[node] = block;
    usedAgain[node] = 1;
    this.settle(node);
  }

  enterDram(node: PrefixNode, block: number): void {
    const { dram, pins, usedAgain } = this.#nodes;
    dram[node] = block;
    usedAgain[node] = (pins[node] as number) > 0 ? 1 : 0;
    this.#stored(node, 'CPU');
  }

  /** The node lives on in DRAM. The block that it had. */
  leaveHbm(node: PrefixNode): number {
    const { hbm } = this.#nodes;
    const block = hbm[node] as number;
    hbm[node] = NO_BLOCK;
    this.#removed(node, 'GPU');
    this.settle(node);
    return block;
  }

  #leaveDram(node: PrefixNode): number {
    const { dram } = this.#nodes;
    const block = dram[node] as number;
    dram[node] = NO_BLOCK;
    this.#removed(node, 'CPU');
    this.settle(node);
    return block;
  }

  /** Of what HBM has, unless it is only coming there: then the copy is still read. */
  #dropCopy(node: PrefixNode): void {
    const { dram, moving } = this.#nodes;
    if (moving[node] === 0 && dram[node] !== NO_BLOCK) this.giveBackDram(this.#leaveDram(node));
  }

  /** Puts a node where it belongs, after anything about it changed but who uses it. `isCold`: as the one unused the longest, else as the one used last. */
  settle(node: PrefixNode, isCold = false): void {
    const { hbm, pins, gone } = this.#nodes;
    const isUnused = gone[node] === 0 && hbm[node] !== NO_BLOCK && pins[node] === 0;
    this.#inHbm.place(node, isUnused ? this.#lineOf(node) : NO_LINE, isCold);
    if (this.#sizes.dram_blocks > 0) this.#settleForDram(node, isUnused, isCold);
  }

  #settleForDram(node: PrefixNode, isUnused: boolean, isCold = false): void {
    const { hbm, dram, moving, keeps, gone, usedAgain } = this.#nodes;
    const isStill = gone[node] === 0 && moving[node] === 0;
    const isInDram = dram[node] !== NO_BLOCK;
    this.#uncopied.place(node, isUnused && isStill && !isInDram ? UNCOPIED : NO_LINE, isCold);
    const mayLeaveDram = isStill && isInDram && keeps[node] === 0;
    const line = hbm[node] === NO_BLOCK ? IN_DRAM_ALONE : usedAgain[node] !== 0 ? SPARE_COPIES : NO_LINE;
    this.#inDram.place(node, mayLeaveDram ? line : NO_LINE, isCold);
  }

  /** What comes has no block of HBM yet: what moves and has one is being copied out. */
  #lineOf(node: PrefixNode): number {
    const isKept = (this.#nodes.keeps[node] as number) > 0;
    if (this.#nodes.moving[node] !== 0) return isKept ? KEPT_LEAVING : LEAVING;
    return isKept ? KEPT : COLD;
  }

  /** Pins a path's nodes as far as their blocks can be read. Those blocks. */
  pinPath(path: readonly PrefixNode[]): number[] {
    const { hbm, moving } = this.#nodes;
    const blocks: number[] = [];
    for (const node of path) {
      const block = hbm[node] as number;
      if (block === NO_BLOCK || moving[node] !== 0) break;
      this.pin(node);
      blocks.push(block);
    }
    return blocks;
  }

  unpinPath(path: readonly PrefixNode[]): void {
    for (let depth = path.length - 1; depth >= 0; depth--) this.unpin(path[depth] as PrefixNode);
  }

  pin(node: PrefixNode): void {
    const { pins, usedAgain } = this.#nodes;
    const before = pins[node] as number;
    pins[node] = before + 1;
    if (before > 0) return;
    this.#inHbm.stepOut(node);
    if (this.#sizes.dram_blocks === 0) return;
    usedAgain[node] = 1;
    this.#settleForDram(node, false);
  }

  unpin(node: PrefixNode): void {
    const { pins, moving } = this.#nodes;
    const left = (pins[node] as number) - 1;
    assert(left >= 0, 'a cached block is let go of more often than it was used');
    pins[node] = left;
    if (left > 0) return;
    // Nearly always: nothing else about it has changed.
    if (this.#inHbm.stepIn(node)) {
      if (this.#sizes.dram_blocks > 0) this.#settleForDram(node, true);
    } else if (this.#nodes.isGone(node) && moving[node] === 0) this.giveBackAll(node);
    else this.settle(node);
  }

  /**
   * Forgets a node that nobody uses, and all below it. What a copy writes stays nobody's until its end; what it only reads, in HBM, can be given out at once,
   * since nobody will look at what it has written. A copy out of DRAM is read on: there its block stays too.
   */
  forget(node: PrefixNode): void {
    if (this.#tree.isLeaf(node)) {
      this.#remove(node);
      return;
    }
    const doomed = this.#tree.below(node);
    for (let at = doomed.length - 1; at >= 0; at--) this.#remove(doomed[at] as PrefixNode);
  }

  /** Forgets all that nobody uses, copies of what is used among it. How many blocks of HBM that were. */
  drop(): number {
    const before = this.#freeHbm.length;
    for (const node of this.#tree.all()) {
      if (this.#nodes.isGone(node)) continue;
      if (this.#nodes.pins[node] === 0) this.forget(node);
      else this.#dropCopy(node);
    }
    if (this.#tree.size === 0) this.#events.cleared();
    return this.#freeHbm.length - before;
  }

  /** The memory failed: nobody begins with what is there, though whoever uses it still keeps its blocks until it lets go. */
  distrust(): number {
    const dropped = this.drop();
    for (const node of [...this.#tree.all()].reverse()) {
      if (this.#nodes.isGone(node) || this.#nodes.moving[node] !== 0 || !this.#tree.isLeaf(node)) continue;
      this.#takeFromTree(node);
    }
    return dropped;
  }

  #remove(node: PrefixNode): void {
    const { hbm, moving, pins } = this.#nodes;
    assert(pins[node] === 0, 'a cached block that is used is forgotten');
    this.#takeFromTree(node);
    if (moving[node] === 0) this.giveBackAll(node);
    else if (hbm[node] !== NO_BLOCK) {
      this.giveBackHbm(hbm[node] as number);
      hbm[node] = NO_BLOCK;
    }
  }

  /** The blocks of a node that is gone, and its number: nobody uses it, and nothing moves its block. */
  giveBackAll(node: PrefixNode): void {
    const { hbm, dram } = this.#nodes;
    if (hbm[node] !== NO_BLOCK) this.giveBackHbm(hbm[node] as number);
    if (dram[node] !== NO_BLOCK) this.giveBackDram(dram[node] as number);
    this.#nodes.giveBack(node);
  }

  /**
   * The oldest of two lines: what is still before what is being copied out; but not where all below it were forgotten with it, which as a rule is what is being
   * copied.
   */
  #leastLost(still: number, leaving: number): PrefixNode {
    const [first, second] = [this.#inHbm.oldest(still), this.#inHbm.oldest(leaving)];
    if (first === NO_NODE || second === NO_NODE) return first === NO_NODE ? second : first;
    return this.#nodes.dram[first] !== NO_BLOCK || this.#tree.isLeaf(first) ? first : second;
  }

  #stored(node: PrefixNode, medium: Medium): void {
    if (this.#events.isOn) this.#tree.addTokens(node, this.#events.stored(this.#tree.nameOf(node), this.#tree.nameOfParent(node), medium));
  }

  #removed(node: PrefixNode, medium: Medium): void {
    if (this.#events.isOn) this.#events.removed(this.#tree.nameOf(node), medium);
  }
}
