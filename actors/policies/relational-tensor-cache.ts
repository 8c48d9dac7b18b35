/**
 * The relational tensor cache (RTC) of one DP group: which KV block holds what, who uses it, and what can be used again (DeepServe §4.3).
 * Block table, prefix tree, id index and reference counts are one module, so that a block is given out, shared, kept, moved and given away under one account:
 *
 *   free ─▶ held by one sequence, which writes it ─▶ whole: in the prefix tree, used by any number ─▶ by none: kept, until its room is needed ─▶ free
 *                                                                   ▲                                   │ Copy
 *                                                                   └──────── Populate ──── a copy in host DRAM, at another task executor
 *
 * Its eight calls are those of the paper's Table 1. It moves nothing itself: Populate and Copy give a transfer, which its owner has performed, and tells it
 * of the end. What it keeps is soft: dropping all of it changes no token, only how often they are computed.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import { type Holding, holdingOf } from './cache-holding.ts';
import { CacheTransfers, type RemoteBlocks, type RemoteCopy, type SwapLimits } from './cache-transfers.ts';
import { ContextIndex } from './context-index.ts';
import { KvEventLog } from './kv-events.ts';
import { KvTiers, type TierSizes } from './kv-tiers.ts';
import { NO_BLOCK, NO_NODE, type PrefixNode, type PrefixNodes, type RememberedNode } from './prefix-nodes.ts';
import { PrefixTree } from './prefix-tree.ts';
import { PromptTails } from './prompt-tails.ts';

export type CacheLimits = TierSizes &
  SwapLimits & {
    readonly block_size: number;
    /** Batches of KV events that can be asked for again; 0: none are made. */
    readonly kv_event_batches: number;
    /** By which KV comes about (protocol/numerics.ts); missing: as the model has it. */
    readonly numerics?: string;
  };

/** Of KV events, a batch a step: 10 to 50 s of steps, for who looks on to catch up with. */
export const KV_EVENT_BATCHES = 1_024;

export class RelationalTensorCache {
  readonly block_size: number;
  readonly events: KvEventLog;
  readonly contexts: ContextIndex;
  readonly #limits: CacheLimits;
  readonly #tree: PrefixTree;
  readonly #nodes: PrefixNodes;
  readonly #tiers: KvTiers;
  readonly #tails = new PromptTails();
  readonly transfers: CacheTransfers;
  /** Prompt positions that were looked up, and found. */
  positions_queried = 0;
  positions_hit = 0;

  constructor(limits: CacheLimits) {
    this.block_size = limits.block_size;
    this.events = new KvEventLog(limits.block_size, limits.kv_event_batches);
    this.#limits = limits;
    this.#tree = new PrefixTree(limits.block_size, limits.blocks + limits.dram_blocks, limits.numerics);
    this.#nodes = this.#tree.nodes;
    this.#tiers = new KvTiers(limits, this.#tree, this.events);
    this.transfers = new CacheTransfers(limits, this.#tree, this.#tiers, this.#tails);
    this.contexts = new ContextIndex(this.#nodes, this.#tiers, limits.block_size);
  }

  /** Blocks of HBM, but for those that went bad. */
  get blocks(): number {
    return this.#limits.blocks - this.#tiers.mapped_out;
  }

  get mapped_out(): number {
    return this.#tiers.mapped_out;
  }

  get mapped_out_dram(): number {
    return this.#tiers.mapped_out_dram;
  }

  /** Blocks of DRAM that hold what lies nowhere else, and that nobody moves. */
  get in_dram_alone(): readonly number[] {
    const { hbm, dram, moving } = this.#nodes;
    const still = this.#tree.all().filter((node) => hbm[node] === NO_BLOCK && moving[node] === 0);
    return still.map((node) => dram[node] as number).filter((block) => block !== NO_BLOCK);
  }

  isMappedOutDram(block: number): boolean {
    return this.#tiers.isMappedOutDram(block);
  }

  /** Blocks that sequences hold. */
  get used(): number {
    return this.blocks - this.#tiers.available - this.transfers.blocks;
  }

  /** Blocks that are kept for whoever may come. */
  get cached(): number {
    return this.#tiers.evictable;
  }

  get dram_blocks(): number {
    return this.#limits.dram_blocks;
  }

  get dram_blocks_used(): number {
    return this.#limits.dram_blocks - this.#tiers.mapped_out_dram - this.#tiers.free_dram.length;
  }

  get evictions(): number {
    return this.#tiers.evictions;
  }

  blocksFor(positions: number): number {
    return Math.ceil(positions / this.block_size);
  }

  canAllocate(count: number): boolean {
    return count <= this.#tiers.available;
  }

  // ---------------------------------------------------------------- its eight calls

  /**
   * Holds the blocks of the longest known prefix within the first `positions` tokens, as far as they lie in HBM, and says what lies behind.
   * `request`: choices of that request share the tail of their prompt too; −1: not asked for.
   */
  matchByPrefixToken(space: string, tokens: readonly number[], positions: number, request = -1): Holding {
    return this.#hold(space, this.#tree.match(space, tokens, positions), tokens, positions, request);
  }

  /** The same, the first blocks being those of a context, which are found without looking for their tokens. Null: no such context is known here. */
  matchByID(id: string, space: string, tokens: readonly number[], positions: number, request = -1): Holding | null {
    const context = this.contexts.get(id);
    if (context === undefined || context.space !== space) return null;
    const path: PrefixNode[] = [];
    for (const { node, isGone } of context.path) {
      const at = path.length * this.block_size;
      const follows = path.length === 0 || this.#nodes.parent[node] === path.at(-1);
      if (isGone || !follows || at + this.block_size > positions || !this.#tree.holds(node, tokens, at)) break;
      path.push(node);
    }
    const holding = this.#hold(space, this.#tree.match(space, tokens, positions, path), tokens, positions, request);
    holding.context = context;
    this.contexts.keep(context, holding.path);
    return holding;
  }

  /**
   * Brings the blocks behind a holding into HBM: those that DRAM has, or those of another task executor. The holding has them at once, and may be used when
   * the transfer has ended. Null: there is nothing to bring, or no room for it; then `swapped` says so still.
   */
  populate(holding: Holding): TierCopy | null;
  populate(holding: Holding, source: RemoteBlocks): RemoteCopy | null;
  populate(holding: Holding, source?: RemoteBlocks): TierCopy | RemoteCopy | null {
    assert(
      holding.populating !== 'copying' && holding.blocks.length === holding.path.length,
      'a holding is populated before it is written, and once at a time',
    );
    return source === undefined ? this.transfers.swapIn(holding) : this.transfers.bring(holding, source);
  }

  queryPopulate(holding: Holding): Holding['populating'] {
    return holding.populating;
  }

  /** `count` more blocks at a holding's end, to be written by prefill. */
  allocBlocks(holding: Holding, count: number): readonly number[] {
    const { available, evictable } = this.#tiers;
    assert(count <= available, `${count} KV blocks asked for, ${available - evictable} are free and ${evictable} kept`);
    const blocks = Array.from({ length: count }, () => this.#tiers.takeHbm());
    holding.blocks.push(...blocks);
    return blocks;
  }

  /** One more block, for decode. */
  appendBlock(holding: Holding): number {
    return this.allocBlocks(holding, 1)[0] as number;
  }

  /**
   * HBM → DRAM: the coldest blocks, when the marks say so, or those of `what` that have no copy yet. HBM → HBM: the tail that a holding shares, before it
   * writes there (copy-on-write). Null: nothing is to be copied now.
   */
  copy(what: 'cold' | readonly RememberedNode[] | Holding): TierCopy | null {
    if (what === 'cold') return this.transfers.copyCold();
    return 'blocks' in what ? this.transfers.copyTail(what) : this.transfers.copyOut(what);
  }

  /** What others may use is kept, the rest is free. `computed`: so many of the tokens have their KV, none where it cannot be trusted. */
  free(holding: Holding, tokens: readonly number[] = [], computed = 0): void {
    const { space, blocks, path, context, stand_ins } = holding;
    const own = this.#letGoOfTail(holding, this.transfers.letGoOf(holding));
    const kept = this.#tree.isCutOff(path) ? 0 : computed;
    let left = 0;
    for (const block of own) {
      left++;
      const at = path.length * this.block_size;
      const known = at + this.block_size <= kept ? this.#tree.find(space, path, tokens, at) : NO_NODE;
      if (at + this.block_size > kept || (known !== NO_NODE && this.#nodes.moving[known] !== 0) || this.#tiers.isMappedOut(block)) {
        this.#tiers.giveBackHbm(block);
        break;
      }
      const node = known === NO_NODE ? this.#tree.add(space, path, tokens, at) : known;
      if (known !== NO_NODE) this.#tiers.pin(known);
      if (this.#nodes.hbm[node] === NO_BLOCK) this.#tiers.enterHbm(node, block);
      else this.#tiers.giveBackHbm(block);
      path.push(node);
    }
    for (; left < own.length; left++) this.#tiers.giveBackHbm(own[left] as number);
    for (const block of stand_ins) this.#tiers.giveBackHbm(block);
    stand_ins.length = 0;
    if (context !== null) this.contexts.keep(context, path);
    this.#tiers.unpinPath(path);
    blocks.length = 0;
    path.length = 0;
    holding.swapped = [];
    holding.known = 0;
  }

  // ---------------------------------------------------------------- what it is told, beside the end of transfers

  /** The first `computed` positions of a holding have their KV: whole blocks of them can be used by others from now on. */
  publish(holding: Holding, tokens: readonly number[], computed: number): void {
    const { space, blocks, path, context } = holding;
    const before = path.length;
    // Nearly always: asked for each sequence after each of its steps.
    if ((before + 1) * this.block_size > computed) return;
    if (this.#tree.isCutOff(path)) return;
    while ((path.length + 1) * this.block_size <= computed) {
      const [at, own] = [path.length * this.block_size, blocks[path.length] as number];
      if (this.#tiers.isMappedOut(own)) break;
      const known = this.#tree.find(space, path, tokens, at);
      // Another sequence computed the same at the same time and uses its block still. Pinning that one too would take room that nobody needs.
      if (known !== NO_NODE && ((this.#nodes.pins[known] as number) > 0 || this.#nodes.moving[known] !== 0)) break;
      if (holding.tail?.start === at && !this.#retireTail(holding)) break;
      const node = known === NO_NODE ? this.#tree.add(space, path, tokens, at) : known;
      // A node that nobody uses takes a sequence's own block, and gives up its own.
      if (known !== NO_NODE) this.#tiers.pin(known);
      this.#tiers.enterHbm(node, own);
      path.push(node);
    }
    if (context !== null && path.length > before) this.contexts.keep(context, path);
  }

  /** The prompt of a request's choice has its KV up to `positions`: other choices of it may share its last block, which is not whole. */
  shareTail(holding: Holding, tokens: readonly number[], request: number, positions: number): void {
    const start = Math.floor(positions / this.block_size) * this.block_size;
    // Where a twin of a block before it is used, others do not come to this one.
    if (holding.tail !== null || start === positions || holding.path.length * this.block_size !== start) return;
    holding.tail = this.#tails.offer(request, start, tokens.slice(start, positions), holding.blocks[start / this.block_size] as number);
    holding.ownsTail = holding.tail !== null;
  }

  /** Keeps a prompt under an id until `deleteContext`; what of it was not computed yet is kept once a sequence with that id has. */
  createContext(id: string, space: string, tokens: readonly number[]): void {
    const path = this.#tree.match(space, tokens, tokens.length);
    const absent = path.findIndex((node) => this.#nodes.moving[node] !== 0);
    this.contexts.create(id, space, tokens, absent < 0 ? path : path.slice(0, absent));
  }

  /** A holding's path for who goes on to ask for it when the holding has been let go of. */
  remember({ path }: Holding): readonly RememberedNode[] {
    return path.map((node) => this.#nodes.remember(node));
  }

  /** False: there was none. */
  deleteContext(id: string): boolean {
    return this.contexts.delete(id);
  }

  /** Forgets all that no sequence holds. How many blocks of HBM that were. */
  drop(): number {
    const dropped = this.#tiers.drop();
    this.events.endBatch();
    return dropped;
  }

  /** The memory failed that all of it lies in: forgets it, also what sequences hold still. How many blocks of HBM are free by that. */
  distrust(): number {
    const dropped = this.#tiers.distrust();
    this.events.endBatch();
    return dropped;
  }

  /** Blocks went bad. What is kept there is forgotten, with all that is only reached by it; who holds one gives it back, or has it replaced. */
  mapOut(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.#tiers.mapOut(block);
      this.#tails.mapOut(block);
    }
    this.events.endBatch();
  }

  /** Blocks of DRAM went bad. What is kept there alone is forgotten; what a transfer was to bring of it, when that has ended. */
  mapOutDram(blocks: readonly number[]): void {
    for (const block of blocks) this.#tiers.mapOutDram(block);
    this.events.endBatch();
  }

  /** Another block in place of one that went bad, for what is to be computed again. False: there is none. */
  replace(holding: Holding, index: number): boolean {
    if (!this.canAllocate(1)) return false;
    const { blocks, path, tail } = holding;
    // Who copies from it finds it bad, and does without.
    if (tail !== null && holding.ownsTail && tail.block === blocks[index]) {
      this.#tails.release(tail, true);
      holding.tail = null;
      holding.ownsTail = false;
    }
    const block = this.#tiers.takeHbm();
    if (index < path.length) holding.stand_ins.push(block);
    blocks[index] = block;
    return true;
  }

  /** All of its state but the tree's words: what a snapshot of its owner shows. */
  toJSON(): object {
    const { blocks, block_size, used, cached, positions_queried, positions_hit, evictions, dram_blocks, dram_blocks_used, mapped_out } = this;
    const counts = { positions_queried, positions_hit, evictions, dram_blocks, dram_blocks_used, mapped_out, mapped_out_dram: this.mapped_out_dram };
    const rest = { transfers: this.transfers.toJSON(), contexts: this.contexts.toJSON(), free: [...this.#tiers.free_hbm] };
    return { blocks, block_size, used, cached, ...counts, ...rest };
  }

  /** A holding that was matched does without the tail that it shares. */
  letGoOfTail(holding: Holding): void {
    if (holding.tail === null || holding.ownsTail) return;
    if (this.#tails.release(holding.tail, false)) this.#tiers.giveBackHbm(holding.tail.block);
    holding.tail = null;
    holding.blocks.pop();
    holding.known = holding.path.length * this.block_size;
  }

  // ---------------------------------------------------------------- matching

  #hold(space: string, nodes: PrefixNode[], tokens: readonly number[], positions: number, request: number): Holding {
    const blocks = this.#tiers.pinPath(nodes);
    const depth = blocks.length;
    const holding = holdingOf(space, nodes, blocks, depth * this.block_size);
    if (depth < nodes.length) {
      const behind = nodes.splice(depth);
      const { moving } = this.#nodes;
      holding.awaited = moving[behind[0] as PrefixNode] as number;
      const still = behind.findIndex((node) => moving[node] !== 0);
      holding.swapped = (still < 0 ? behind : behind.slice(0, still)).map((node) => this.#nodes.remember(node));
    } else if (request >= 0 && positions > holding.known) this.#shareTail(holding, tokens, positions, request);
    return holding;
  }

  #shareTail(holding: Holding, tokens: readonly number[], positions: number, request: number): void {
    const tail = this.#tails.share(request, tokens, holding.known, positions);
    if (tail === null) return;
    holding.tail = tail;
    holding.blocks.push(tail.block);
    holding.known += Math.min(tail.tokens.length, positions - tail.start);
  }

  /** True: nobody else reads it, and it is an ordinary block of its owner from now on. */
  #retireTail(holding: Holding): boolean {
    if (holding.tail === null || !holding.ownsTail || !this.#tails.retire(holding.tail)) return false;
    holding.tail = null;
    holding.ownsTail = false;
    return true;
  }

  // ---------------------------------------------------------------- Free

  /** The blocks that are a holding's own, without the last `moving` and without a tail that others read. */
  #letGoOfTail(holding: Holding, moving: number): number[] {
    const { blocks, path, tail } = holding;
    const own = blocks.slice(path.length, blocks.length - moving);
    if (tail === null || this.#retireTail(holding)) return own;
    const isFree = this.#tails.release(tail, holding.ownsTail);
    holding.tail = null;
    holding.ownsTail = false;
    if (isFree) return own;
    own.splice(tail.start / this.block_size - path.length, 1);
    return own;
  }
}
