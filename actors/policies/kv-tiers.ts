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
import type { KvEventLog } from './kv-events.ts';
import { isLeaf, NO_BLOCK, type PrefixNode, type PrefixTree } from './prefix-tree.ts';
import { type Standing, standingOf, UsageOrder } from './usage-order.ts';

export type TierSizes = { readonly blocks: number; readonly dram_blocks: number };

const freeBlocks = (blocks: number): number[] => Array.from({ length: blocks }, (_, index) => blocks - 1 - index);

export class KvTiers {
  readonly #tree: PrefixTree;
  readonly #events: KvEventLog;
  readonly #sizes: TierSizes;
  readonly #freeHbm: number[];
  readonly #freeDram: number[];
  readonly #cold = new UsageOrder<PrefixNode>();
  readonly #leaving = new UsageOrder<PrefixNode>();
  readonly #kept = new UsageOrder<PrefixNode>();
  readonly #keptLeaving = new UsageOrder<PrefixNode>();
  /** Of cold and kept, those without a copy. */
  readonly #uncopied = new UsageOrder<PrefixNode>();
  readonly #spareCopies = new UsageOrder<PrefixNode>();
  readonly #inDramAlone = new UsageOrder<PrefixNode>();
  /** Blocks of HBM, and of DRAM, that are given out no more. */
  readonly #mappedOut = new Set<number>();
  readonly #mappedOutDram = new Set<number>();
  evictions = 0;

  constructor(sizes: TierSizes, tree: PrefixTree, events: KvEventLog) {
    this.#sizes = sizes;
    this.#tree = tree;
    this.#events = events;
    this.#freeHbm = freeBlocks(sizes.blocks);
    this.#freeDram = freeBlocks(sizes.dram_blocks);
  }

  /** Blocks of HBM that nobody uses, and that hold what somebody may use. */
  get evictable(): number {
    return this.#cold.length + this.#kept.length + this.#beingCopied;
  }

  /** Blocks of HBM that can be given out. */
  get available(): number {
    return this.#freeHbm.length + this.evictable;
  }

  /** Of them, those that can be given out and nothing is forgotten. */
  get reserve(): number {
    return this.available - this.#uncopied.length - this.#beingCopied;
  }

  /** Blocks of DRAM that can be given out. */
  get available_dram(): number {
    return this.#freeDram.length + this.#spareCopies.length + this.#inDramAlone.length;
  }

  /** Of those that may go, what is being copied out. */
  get #beingCopied(): number {
    return this.#leaving.length + this.#keptLeaving.length;
  }

  get free_hbm(): readonly number[] {
    return this.#freeHbm;
  }

  get free_dram(): readonly number[] {
    return this.#freeDram;
  }

  /** Who is copied to DRAM next, if anybody may. */
  get coldest(): PrefixNode | null {
    return this.#uncopied.oldest;
  }

  /** A block of HBM to be written; `available` > 0. */
  takeHbm(): number {
    const free = this.#freeHbm.pop();
    if (free !== undefined) return free;
    const node = leastLost(this.#cold.oldest, this.#leaving.oldest) ?? leastLost(this.#kept.oldest, this.#keptLeaving.oldest);
    assert(node !== null, 'no block of HBM may go');
    this.evictions++;
    if (node.dram !== NO_BLOCK) return this.leaveHbm(node);
    this.forget(node);
    return this.#freeHbm.pop() as number;
  }

  /** A block of DRAM to be written; null: none may go. */
  takeDram(): number | null {
    const free = this.#freeDram.pop();
    if (free !== undefined) return free;
    const copied = this.#spareCopies.oldest;
    if (copied !== null) return this.#leaveDram(copied);
    const node = this.#inDramAlone.oldest;
    if (node === null) return null;
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

  /** The block of DRAM went bad, and is not free: whoever has it is about to give it back. */
  mapOutDram(block: number): void {
    this.#mappedOutDram.add(block);
  }

  /** The block went bad: nobody gets it any more, and nobody begins with what it held. Who uses it keeps its node until it lets go. */
  mapOut(block: number): void {
    this.#mappedOut.add(block);
    const at = this.#freeHbm.indexOf(block);
    if (at >= 0) this.#freeHbm.splice(at, 1);
    const node = this.#tree.all().find(({ hbm }) => hbm === block);
    if (node === undefined) return;
    for (const below of this.#tree.below(node).reverse()) {
      if (below.pins === 0) this.#remove(below);
      else this.#loseUsed(below);
    }
  }

  #loseUsed(node: PrefixNode): void {
    assert(node.moving === 0, 'a block that comes is used');
    this.#tree.remove(node);
    this.settle(node);
    if (node.hbm !== NO_BLOCK) this.#events.removed(node, 'GPU');
    if (node.dram !== NO_BLOCK) this.#events.removed(node, 'CPU');
  }

  /** The block of HBM holds what the node names. The one that it had is given back. */
  enterHbm(node: PrefixNode, block: number): void {
    if (node.hbm !== NO_BLOCK) this.giveBackHbm(node.hbm);
    else this.#events.stored(node, 'GPU');
    node.hbm = block;
    node.isUsedAgain = true;
    this.settle(node);
  }

  enterDram(node: PrefixNode, block: number): void {
    node.dram = block;
    node.isUsedAgain = node.pins > 0;
    this.#events.stored(node, 'CPU');
  }

  /** The node lives on in DRAM. The block that it had. */
  leaveHbm(node: PrefixNode): number {
    const { hbm } = node;
    node.hbm = NO_BLOCK;
    this.#events.removed(node, 'GPU');
    this.settle(node);
    return hbm;
  }

  #leaveDram(node: PrefixNode): number {
    const { dram } = node;
    node.dram = NO_BLOCK;
    this.#events.removed(node, 'CPU');
    this.settle(node);
    return dram;
  }

  /** Puts a node where it belongs, after anything about it changed. `isCold`: as the one unused the longest, else as the one used last. */
  settle(node: PrefixNode, isCold = false): void {
    const isStill = node.moving === 0 && !node.isGone;
    const isUnused = !node.isGone && node.pins === 0 && node.hbm !== NO_BLOCK;
    const mayGo = isStill && isUnused;
    // What comes has no block of HBM yet: what moves and has one is being copied out.
    place(node, isUnused ? this.#orderOf(node) : null, isCold);
    if (this.#sizes.dram_blocks === 0) return;
    node.uncopied ??= standingOf(node);
    node.inDram ??= standingOf(node);
    place(node.uncopied, mayGo && node.dram === NO_BLOCK ? this.#uncopied : null, isCold);
    const mayLeaveDram = isStill && node.keeps === 0 && node.dram !== NO_BLOCK;
    place(node.inDram, !mayLeaveDram ? null : node.hbm === NO_BLOCK ? this.#inDramAlone : node.isUsedAgain ? this.#spareCopies : null, isCold);
  }

  #orderOf({ keeps, moving }: PrefixNode): UsageOrder<PrefixNode> {
    if (moving !== 0) return keeps > 0 ? this.#keptLeaving : this.#leaving;
    return keeps > 0 ? this.#kept : this.#cold;
  }

  pin(node: PrefixNode): void {
    if (node.pins++ > 0) return;
    node.isUsedAgain = true;
    this.settle(node);
  }

  unpin(node: PrefixNode): void {
    assert(node.pins > 0, 'a cached block is let go of more often than it was used');
    if (--node.pins > 0) return;
    if (node.isGone && node.moving === 0) this.giveBackAll(node);
    else this.settle(node);
  }

  /**
   * Forgets a node that nobody uses, and all below it. What a copy writes stays nobody's until its end; what it only reads, in HBM, can be given out at once,
   * since nobody will look at what it has written. A copy out of DRAM is read on: there its block stays too.
   */
  forget(node: PrefixNode): void {
    if (isLeaf(node)) {
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
      if (node.isGone) continue;
      if (node.pins === 0) this.forget(node);
      else if (node.moving === 0 && node.dram !== NO_BLOCK) this.giveBackDram(this.#leaveDram(node));
    }
    if (this.#tree.size === 0) this.#events.cleared();
    return this.#freeHbm.length - before;
  }

  /** The memory failed: nobody begins with what is there, though whoever uses it still keeps its blocks until it lets go. */
  distrust(): number {
    const dropped = this.drop();
    for (const node of [...this.#tree.all()].reverse()) {
      if (node.isGone || node.moving !== 0 || !isLeaf(node)) continue;
      this.#tree.remove(node);
      this.#events.removed(node, 'GPU');
    }
    return dropped;
  }

  #remove(node: PrefixNode): void {
    assert(node.pins === 0, 'a cached block that is used is forgotten');
    this.#tree.remove(node);
    this.settle(node);
    if (node.hbm !== NO_BLOCK) this.#events.removed(node, 'GPU');
    if (node.dram !== NO_BLOCK) this.#events.removed(node, 'CPU');
    if (node.moving === 0) this.giveBackAll(node);
    else if (node.hbm !== NO_BLOCK) {
      this.giveBackHbm(node.hbm);
      node.hbm = NO_BLOCK;
    }
  }

  /** The blocks of a node that is gone. */
  giveBackAll(node: PrefixNode): void {
    if (node.hbm !== NO_BLOCK) this.giveBackHbm(node.hbm);
    if (node.dram !== NO_BLOCK) this.giveBackDram(node.dram);
    node.hbm = NO_BLOCK;
    node.dram = NO_BLOCK;
  }
}

/** What is still before what is being copied out; but not where all below it were forgotten with it, which as a rule is what is being copied. */
function leastLost(still: PrefixNode | null, leaving: PrefixNode | null): PrefixNode | null {
  if (still === null || leaving === null) return still ?? leaving;
  return still.dram !== NO_BLOCK || isLeaf(still) ? still : leaving;
}

function place(standing: Standing<PrefixNode>, order: UsageOrder<PrefixNode> | null, isCold: boolean): void {
  if (standing.order === order) return;
  standing.order?.leave(standing);
  if (isCold) order?.joinFirst(standing);
  else order?.join(standing);
}
