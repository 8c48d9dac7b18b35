/**
 * Blocks of the relational tensor cache on their way: between HBM and DRAM, from another task executor, or copied before they are written.
 * A transfer is planned here, performed elsewhere, and its end is told; whatever happens meanwhile, its blocks are nobody else's until then. One whose memory
 * went bad meanwhile has brought nothing:
 *
 *   swap-out   a cold node is not matched while it is copied, and stays in HBM behind it; if its block is needed meanwhile, it is forgotten with its copy
 *   swap-in    a holding pins nodes that are not matched until they have come; let go of, they come all the same, for whoever may want them
 *   populate   the same, from global addresses
 *   copy       a tail that several read (prompt-tails.ts)
 *
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import type { Holding } from './cache-holding.ts';
import type { KvTiers } from './kv-tiers.ts';
import { NO_BLOCK, NO_NODE, type PrefixNode, type PrefixNodes, type RememberedNode } from './prefix-nodes.ts';
import type { PrefixTree } from './prefix-tree.ts';
import type { PromptTails, Tail } from './prompt-tails.ts';

/** Blocks at another task executor that hold the tokens behind a holding's; a generation tells a block from what was written there since. */
export type RemoteBlocks = { readonly tokens: readonly number[]; readonly addresses: readonly number[]; readonly generations: readonly number[] };

/** Blocks of HBM to be filled from another task executor: `from` in the order of `to`. */
export type RemoteCopy = { readonly kind: 'populate'; readonly id: number; readonly from: Omit<RemoteBlocks, 'tokens'>; readonly to: TierCopy['to'] };

/** A transfer under way: `targets` are the blocks that it writes, which are nobody's until its end. */
type Move = {
  readonly kind: TierCopy['kind'] | 'populate';
  readonly nodes: readonly PrefixNode[];
  readonly targets: readonly number[];
  readonly tail: Tail | null;
  holding: Holding | null;
};

/** Ids travel as int32, and 0 means none. A DP group gives its other transfers smaller ones. */
export const FIRST_CACHE_TRANSFER = 2 ** 30;
const CACHE_TRANSFERS = 2 ** 30 - 1;

export type SwapLimits = {
  /** Cold blocks are copied to DRAM once fewer blocks than the low mark could be given out and nothing be lost, until it is the high mark. */
  readonly swap_low: number;
  readonly swap_high: number;
  /** Of one transfer. */
  readonly swap_blocks_max: number;
};

export class CacheTransfers {
  readonly #limits: SwapLimits & { readonly dram_blocks: number; readonly block_size: number };
  readonly #tree: PrefixTree;
  readonly #nodes: PrefixNodes;
  readonly #tiers: KvTiers;
  readonly #tails: PromptTails;
  readonly #moves = new Map<number, Move>();
  #last = 0;
  #isSwappingOut = false;
  blocks_swapped_out = 0;
  blocks_swapped_in = 0;
  blocks_populated = 0;
  failed = 0;

  constructor(limits: SwapLimits & { readonly dram_blocks: number; readonly block_size: number }, tree: PrefixTree, tiers: KvTiers, tails: PromptTails) {
    this.#limits = limits;
    this.#tree = tree;
    this.#nodes = tree.nodes;
    this.#tiers = tiers;
    this.#tails = tails;
  }

  /** Under way. */
  get size(): number {
    return this.#moves.size;
  }

  /** Whether a transfer brings blocks of another task executor. */
  isPopulate(id: number): boolean {
    return this.#moves.get(id)?.kind === 'populate';
  }

  /** Nodes whose blocks a transfer moves. */
  nodesOf(id: number): number {
    return this.#moves.get(id)?.nodes.length ?? 0;
  }

  /** Blocks of HBM that are nobody's until a transfer has ended, and no sequence holds. */
  get blocks(): number {
    let blocks = 0;
    const tails = new Set<Tail>();
    const { pins } = this.#nodes;
    for (const { kind, nodes, targets, tail, holding } of this.#moves.values()) {
      // What is copied out can be given out.
      if (kind === 'swap-out') continue;
      targets.forEach((block, index) => {
        const isNobodys = tail === null ? pins[nodes[index] as PrefixNode] === 0 : holding === null;
        if (isNobodys && !this.#tiers.isMappedOut(block)) blocks++;
      });
      if (tail !== null && tail.holders === tail.copies && !this.#tiers.isMappedOut(tail.block)) tails.add(tail);
    }
    return blocks + tails.size;
  }

  /** RTC's Populate from DRAM. */
  swapIn(holding: Holding): TierCopy | null {
    const { swapped } = holding;
    const { hbm, dram, moving, pins } = this.#nodes;
    const ends = swapped.findIndex(({ node, isGone }) => isGone || moving[node] !== 0);
    const nodes = (ends < 0 ? swapped : swapped.slice(0, ends)).map(({ node }) => node);
    const missing = nodes.filter((node) => hbm[node] === NO_BLOCK);
    const unpinned = nodes.filter((node) => hbm[node] !== NO_BLOCK && pins[node] === 0);
    if (missing.length + unpinned.length > this.#tiers.available) return null;
    holding.swapped = [];
    const id = missing.length > 0 ? this.#newId() : 0;
    // Pinned, all of them, before any room is made: else it might be made of them.
    for (const node of missing) moving[node] = id;
    for (const node of nodes) this.#tiers.pin(node);
    const targets = new Map(missing.map((node) => [node, this.#tiers.takeHbm()]));
    for (const node of nodes) {
      holding.path.push(node);
      holding.blocks.push(targets.get(node) ?? (hbm[node] as number));
    }
    if (missing.length === 0) {
      holding.known = holding.path.length * this.#limits.block_size;
      return null;
    }
    this.#startPopulate(id, 'swap-in', missing, [...targets.values()], holding);
    return {
      kind: 'swap-in',
      id,
      from: { tier: 'dram', blocks: missing.map((node) => dram[node] as number) },
      to: { tier: 'hbm', blocks: [...targets.values()] },
    };
  }

  /** RTC's Populate from another task executor. */
  bring(holding: Holding, { tokens, addresses, generations }: RemoteBlocks): RemoteCopy | null {
    holding.swapped = [];
    if (addresses.length > this.#tiers.available || this.#tree.isCutOff(holding.path)) return null;
    const id = this.#newId();
    const { space, path } = holding;
    const nodes: PrefixNode[] = [];
    const taken: number[] = [];
    let isNew = false;
    for (let index = 0; index < addresses.length; index++) {
      const at = path.length * this.#limits.block_size;
      if (at + this.#limits.block_size > tokens.length) break;
      // Behind one that was not known nothing is.
      const known: PrefixNode = isNew ? NO_NODE : this.#tree.find(space, path, tokens, at);
      isNew = known === NO_NODE;
      // What is here by now need not be fetched; what is on its way here is waited for another time.
      if (known !== NO_NODE && (this.#nodes.moving[known] !== 0 || this.#nodes.hbm[known] === NO_BLOCK)) break;
      const node = known === NO_NODE ? this.#tree.add(space, path, tokens, at) : known;
      if (known !== NO_NODE) this.#tiers.pin(known);
      else {
        this.#nodes.moving[node] = id;
        nodes.push(node);
        taken.push(index);
      }
      path.push(node);
    }
    const targets = nodes.map(() => this.#tiers.takeHbm());
    const { hbm, moving } = this.#nodes;
    let next = 0;
    for (const node of path.slice(holding.blocks.length)) holding.blocks.push(moving[node] === id ? (targets[next++] as number) : (hbm[node] as number));
    if (nodes.length === 0) {
      holding.known = path.length * this.#limits.block_size;
      return null;
    }
    this.#startPopulate(id, 'populate', nodes, targets, holding);
    const from = { addresses: taken.map((at) => addresses[at] as number), generations: taken.map((at) => generations[at] as number) };
    return { kind: 'populate', id, from, to: { tier: 'hbm', blocks: targets } };
  }

  #startPopulate(id: number, kind: Move['kind'], nodes: readonly PrefixNode[], targets: readonly number[], holding: Holding): void {
    holding.populating = 'copying';
    this.#moves.set(id, { kind, nodes, targets, tail: null, holding });
  }

  #endPopulate(nodes: readonly PrefixNode[], targets: readonly number[], holding: Holding | null): void {
    nodes.forEach((node, index) => {
      this.#nodes.moving[node] = 0;
      const block = targets[index] as number;
      if (this.#nodes.isGone(node)) {
        this.#tiers.giveBackAll(node);
        this.#tiers.giveBackHbm(block);
      } else {
        this.#tiers.enterHbm(node, block);
      }
    });
    if (holding === null) return;
    holding.populating = 'done';
    holding.known = holding.path.length * this.#limits.block_size;
  }

  #failPopulate(id: number, nodes: readonly PrefixNode[], targets: readonly number[], holding: Holding | null): void {
    if (holding !== null) {
      const first = holding.path.indexOf(nodes[0] as PrefixNode);
      holding.blocks.length = first;
      for (const node of holding.path.splice(first).reverse()) this.#tiers.unpin(node);
      holding.populating = 'failed';
      holding.known = first * this.#limits.block_size;
    }
    for (const block of targets) this.#tiers.giveBackHbm(block);
    const { moving } = this.#nodes;
    assert(
      nodes.every((node) => moving[node] === id),
      'what a transfer moves, no other does',
    );
    for (const node of nodes) moving[node] = 0;
    // With one that is forgotten go those below it.
    const gone = nodes.filter((node) => this.#nodes.isGone(node));
    for (const node of nodes) if (!this.#nodes.isGone(node)) this.#tiers.forget(node);
    for (const node of gone) this.#tiers.giveBackAll(node);
  }

  /** RTC's Copy of what is cold, when the marks say so. */
  copyCold(): TierCopy | null {
    const { swap_low, swap_high, swap_blocks_max, dram_blocks } = this.#limits;
    if (dram_blocks === 0) return null;
    const { reserve } = this.#tiers;
    if (reserve >= (this.#isSwappingOut ? swap_high : swap_low)) {
      this.#isSwappingOut = false;
      return null;
    }
    this.#isSwappingOut = true;
    // One at a time: what is being copied counts for neither mark.
    for (const { kind } of this.#moves.values()) if (kind === 'swap-out') return null;
    return this.#startCopyOut(Math.min(swap_blocks_max, swap_high - reserve), () => this.#tiers.coldest);
  }

  /** RTC's Copy of certain nodes, such as those of a sequence that gave way: of a prefix as much as there is room for, its end first, which goes first too. */
  copyOut(path: readonly RememberedNode[]): TierCopy | null {
    const { hbm, dram, moving, pins } = this.#nodes;
    const mayMove = ({ node, isGone }: RememberedNode): boolean =>
      !isGone && moving[node] === 0 && pins[node] === 0 && hbm[node] !== NO_BLOCK && dram[node] === NO_BLOCK;
    const first = path.filter(mayMove).slice(0, this.#tiers.available_dram);
    return this.#startCopyOut(first.length, () => first.findLast(mayMove)?.node ?? NO_NODE);
  }

  #startCopyOut(count: number, next: () => PrefixNode): TierCopy | null {
    if (this.#limits.dram_blocks === 0 || next() === NO_NODE) return null;
    const id = this.#newId();
    const nodes: PrefixNode[] = [];
    const sources: number[] = [];
    const targets: number[] = [];
    while (nodes.length < count) {
      // Room first: what makes it may be forgotten with whom it leads to.
      const block = this.#tiers.takeDram();
      if (block === null) break;
      const node = next();
      if (node === NO_NODE) {
        this.#tiers.giveBackDram(block);
        break;
      }
      this.#nodes.moving[node] = id;
      this.#tiers.settle(node);
      nodes.push(node);
      // By now: it may be forgotten before this is begun.
      sources.push(this.#nodes.hbm[node] as number);
      targets.push(block);
    }
    if (nodes.length === 0) return null;
    this.#moves.set(id, { kind: 'swap-out', nodes, targets, tail: null, holding: null });
    return { id, kind: 'swap-out', from: { tier: 'hbm', blocks: sources }, to: { tier: 'dram', blocks: targets } };
  }

  #endCopyOut(nodes: readonly PrefixNode[], targets: readonly number[], isDone: boolean): void {
    // Backwards, so that the coldest comes to stand first again.
    for (let index = nodes.length - 1; index >= 0; index--) {
      const [node, block] = [nodes[index] as PrefixNode, targets[index] as number];
      this.#nodes.moving[node] = 0;
      const isGone = this.#nodes.isGone(node);
      if (isGone) this.#tiers.giveBackAll(node);
      if (isGone || !isDone) this.#tiers.giveBackDram(block);
      else this.#tiers.enterDram(node, block);
      if (!isGone) this.#tiers.settle(node, true);
    }
    if (isDone) this.blocks_swapped_out += nodes.length;
  }

  /** RTC's Copy before a write; there is room for a block. */
  copyTail(holding: Holding): TierCopy | null {
    const { tail, ownsTail } = holding;
    if (tail === null || ownsTail) return null;
    if (this.#tails.takeOver(tail)) {
      holding.ownsTail = true;
      return null;
    }
    const block = this.#tiers.takeHbm();
    holding.blocks[holding.blocks.length - 1] = block;
    holding.tail = null;
    tail.copies++;
    const id = this.#newId();
    holding.populating = 'copying';
    // The transfer holds the tail in the holding's place until it has read it.
    this.#moves.set(id, { kind: 'copy', nodes: [], targets: [block], tail, holding });
    return { id, kind: 'copy', from: { tier: 'hbm', blocks: [tail.block] }, to: { tier: 'hbm', blocks: [block] } };
  }

  #endTailCopy(tail: Tail, targets: readonly number[], holding: Holding | null, isDone: boolean): void {
    tail.copies--;
    if (this.#tails.release(tail, false)) this.#tiers.giveBackHbm(tail.block);
    if (holding === null) for (const block of targets) this.#tiers.giveBackHbm(block);
    else {
      holding.populating = isDone ? 'done' : 'failed';
      if (!isDone) holding.known = holding.path.length * this.#limits.block_size;
    }
  }

  /** It was performed. */
  done(id: number): void {
    if (this.#isSpoilt(id)) {
      this.fail(id);
      return;
    }
    const { kind, nodes, targets, tail, holding } = this.#take(id);
    if (tail !== null) this.#endTailCopy(tail, targets, holding, true);
    else if (kind === 'swap-out') this.#endCopyOut(nodes, targets, true);
    else this.#endPopulate(nodes, targets, holding);
    if (kind === 'swap-in') this.blocks_swapped_in += nodes.length;
    if (kind === 'populate') this.blocks_populated += nodes.length;
  }

  /** What it should have written is not there. What could not be read is not tried again. */
  fail(id: number): void {
    const { kind, nodes, targets, tail, holding } = this.#take(id);
    this.failed++;
    if (tail !== null) this.#endTailCopy(tail, targets, holding, false);
    else if (kind === 'swap-out') this.#endCopyOut(nodes, targets, false);
    else this.#failPopulate(id, nodes, targets, holding);
  }

  /** Memory went bad meanwhile that it read or wrote, or by which alone is reached what it brought to one who waits for it. */
  #isSpoilt(id: number): boolean {
    const { kind, nodes, targets, tail, holding } = this.#moveOf(id);
    if (kind === 'swap-out') return targets.some((block) => this.#tiers.isMappedOutDram(block));
    if (tail !== null && this.#tiers.isMappedOut(tail.block)) return true;
    if (targets.some((block) => this.#tiers.isMappedOut(block))) return true;
    const { dram } = this.#nodes;
    return nodes.some((node) => this.#tiers.isMappedOutDram(dram[node] as number) || (holding !== null && this.#nodes.isGone(node)));
  }

  /** A transfer that still writes a holding's blocks keeps them until its end. How many of its last blocks those are. */
  letGoOf(holding: Holding): number {
    if (holding.populating !== 'copying') return 0;
    for (const move of this.#moves.values()) {
      if (move.holding !== holding) continue;
      move.holding = null;
      return move.tail === null ? 0 : 1;
    }
    return 0;
  }

  toJSON(): object {
    const { blocks_swapped_out, blocks_swapped_in, blocks_populated, failed } = this;
    const underWay = [...this.#moves].map(([id, { kind, targets }]) => ({ id, kind, targets: [...targets] }));
    return { under_way: underWay, blocks_swapped_out, blocks_swapped_in, blocks_populated, failed };
  }

  #newId(): number {
    do this.#last = (this.#last + 1) % CACHE_TRANSFERS;
    while (this.#moves.has(FIRST_CACHE_TRANSFER + this.#last));
    return FIRST_CACHE_TRANSFER + this.#last;
  }

  #moveOf(id: number): Move {
    const move = this.#moves.get(id);
    assert(move, `transfer ${id} has ended, and was never begun`);
    return move;
  }

  #take(id: number): Move {
    const move = this.#moveOf(id);
    this.#moves.delete(id);
    return move;
  }
}
