/** What a cache's blocks hold, in all tiers, position by position, and the sequences that read and write them: the oracle of the cache's tests. */
// As in xccl/transfers.ts: of what the test took, nine tenths were vitest's expect, called a few hundred thousand times.
import assert from 'node:assert/strict';
import type { Holding } from '../../actors/policies/cache-holding.ts';
import type { RemoteCopy } from '../../actors/policies/cache-transfers.ts';
import { type CacheLimits, RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import { HeardEvents } from './heard-events.ts';

export const BLOCK = 4;
export const HBM_ALONE = { block_size: BLOCK, dram_blocks: 0, swap_low: 0, swap_high: 0, swap_blocks_max: 0, kv_event_batches: 0 };

type Sequence = {
  readonly holding: Holding;
  readonly tokens: number[];
  readonly prompt: number;
  readonly request: number;
  computed: number;
  /** Blocks that went bad while it held them. */
  readonly lost: Set<number>;
};
type Block = (number | undefined)[];
type Step = { readonly act: string; readonly space: string; readonly prompt: readonly number[]; readonly at: number; readonly count: number };
type CacheCopy = TierCopy | RemoteCopy;
type UnderWay = { readonly transfer: CacheCopy; isPerformed: boolean };

/** KV depends on all tokens before it: each sequence of tokens that there ever was has a number. */
class Cells {
  readonly #known = new Map<string, number>();

  /** Of the first `positions` tokens. */
  of(space: string, tokens: readonly number[], positions: number): number[] {
    let cell = this.#numberOf(space);
    return Array.from({ length: positions }, (_, at) => {
      cell = this.#numberOf(`${cell} ${tokens[at]}`);
      return cell;
    });
  }

  #numberOf(key: string): number {
    const number = this.#known.get(key) ?? this.#known.size;
    this.#known.set(key, number);
    return number;
  }
}

const GENERATION = 7;
/** So that a cache fills up. */
const RUNNING_MAX = 5;
const BEGIN: ReadonlySet<string> = new Set(['begin', 'choice', 'by id', 'run', 'bring', 'share']);
const RARE = ['drop', 'fail', 'fail', 'context', 'context', 'expire'];
/** Of a block that went bad: what nobody has written. */
const GARBAGE: Block = Array.from({ length: BLOCK }, () => -1);

export class CacheMemory {
  readonly cache: RelationalTensorCache;
  readonly running: Sequence[] = [];
  readonly #limits: CacheLimits;
  /** Of requests with several choices. */
  readonly #prompts: readonly (readonly number[])[];
  readonly #hbm = new Map<number, Block>();
  readonly #dram = new Map<number, Block>();
  readonly #remote = new Map<number, Block>();
  readonly #cells = new Cells();
  readonly #underWay: UnderWay[] = [];
  readonly #bad = new Set<number>();
  readonly #badDram = new Set<number>();
  readonly #stored = new HeardEvents(BLOCK);
  #next = 0;

  constructor(limits: CacheLimits, prompts: readonly (readonly number[])[]) {
    this.#limits = limits;
    this.#prompts = prompts;
    this.cache = new RelationalTensorCache(limits);
  }

  act({ act: asked, space, prompt, at, count }: Step): void {
    const act = asked === 'rare' ? (RARE[at % RARE.length] as string) : asked;
    const { cache, running } = this;
    const sequence = running[at % Math.max(1, running.length)];
    if (BEGIN.has(act) && running.length === RUNNING_MAX) return;
    if (act === 'begin') this.begin(space, [...prompt]);
    else if (act === 'choice') this.begin('', [...(this.#prompts[at % this.#prompts.length] as number[])], at % this.#prompts.length);
    else if (act === 'context') cache.createContext(`context ${at % 3}`, space, prompt);
    else if (act === 'expire') cache.deleteContext(`context ${at % 3}`);
    else if (act === 'by id') this.begin(space, [...prompt], -1, `context ${at % 3}`);
    else if (act === 'run') this.#runWhole(space, [...prompt]);
    else if (act === 'bring' && this.begin(space, [...prompt]) !== null) this.#fetch(running.at(-1) as Sequence, 1 + count);
    else if (act === 'share' && this.begin('', [...(this.#prompts[0] as number[])], 0) !== null) this.compute(running.at(-1) as Sequence, 99);
    else if (act === 'drop') cache.drop();
    else if (act === 'swap out') this.#startIf(cache.copy('cold'));
    else if (act === 'perform') this.#perform(at);
    else if (act === 'arrive') this.arrive(at);
    else if (act === 'fail') this.#fail(at);
    else if (act === 'go bad') this.#goBad(space !== '', at, count);
    else if (act === 'go bad below') this.#goBadBelow(at, count);
    else if (act === 'take all') this.takeAll();
    else if (sequence === undefined) return;
    else if (act === 'compute') this.compute(sequence, count);
    else if (act === 'decode' && sequence.computed === sequence.tokens.length) {
      sequence.tokens.push(count % 2);
      this.compute(sequence, 1);
    } else if (act === 'end') this.finish(sequence);
    else if (act === 'give way') this.#giveWay(sequence);
    else if (act === 'fetch' && sequence.computed === 0) this.#fetch(sequence, count);
  }

  /** How many positions it found, or null where there is no room for one more block. */
  begin(space: string, tokens: number[], request = -1, context: string | null = null): number | null {
    const { cache } = this;
    const byId = context === null ? null : cache.matchByID(context, space, tokens, tokens.length - 1, request);
    const holding = byId ?? cache.matchByPrefixToken(space, tokens, tokens.length - 1, request);
    assert.ok(holding.known < tokens.length);
    this.#expectSound(holding.blocks);
    this.#checkRead(holding, tokens, holding.known);
    const found = holding.known + holding.swapped.length * BLOCK;
    if (!cache.canAllocate(1)) {
      cache.free(holding);
      return null;
    }
    this.running.push({ holding, tokens, prompt: tokens.length, request, computed: 0, lost: new Set() });
    return found;
  }

  /** Computes up to `count` more tokens, as far as there is room and nothing is on its way; brings what lies in DRAM before. */
  compute(sequence: Sequence, count: number): void {
    const { cache } = this;
    const { holding, tokens } = sequence;
    if (sequence.computed === 0 && cache.queryPopulate(holding) === 'none' && holding.swapped.length > 0 && count % 4 > 0)
      this.#startIf(cache.populate(holding));
    if (cache.queryPopulate(holding) === 'copying') return;
    if (holding.tail !== null && !holding.ownsTail) {
      if (!cache.canAllocate(1)) return;
      const copy = cache.copy(holding);
      this.#startIf(copy);
      if (copy !== null) return;
    }
    const from = Math.max(sequence.computed, holding.known);
    const to = Math.min(from + count, tokens.length);
    const missing = cache.blocksFor(to) - holding.blocks.length;
    if (missing > 0) {
      if (!cache.canAllocate(missing)) return;
      const taken = this.#taken(sequence);
      const given = missing === 1 ? [cache.appendBlock(holding)] : cache.allocBlocks(holding, missing);
      this.#expectSound(given);
      for (const block of given) {
        assert.equal(taken.has(block), false);
        this.#hbm.delete(block);
      }
    }
    this.#checkRead(holding, tokens, from);
    const cells = this.#cells.of(holding.space, tokens, to);
    for (let position = from; position < to; position++) {
      const block = holding.blocks[Math.floor(position / BLOCK)] as number;
      const written = this.#hbm.get(block) ?? [];
      written[position % BLOCK] = cells[position];
      this.#hbm.set(block, written);
    }
    if (to === from) return;
    sequence.computed = to;
    cache.publish(holding, tokens, to);
    if (sequence.request >= 0 && to === sequence.prompt) cache.shareTail(holding, tokens, sequence.request, to);
    // Nobody's memory was written over.
    for (const other of this.running)
      if (cache.queryPopulate(other.holding) !== 'copying') this.#checkRead(other.holding, other.tokens, Math.max(other.computed, other.holding.known));
  }

  finish(sequence: Sequence): void {
    this.running.splice(this.running.indexOf(sequence), 1);
    this.cache.free(sequence.holding, sequence.tokens, sequence.computed);
  }

  start(transfer: CacheCopy): void {
    const targets = blocksOf(transfer.to);
    this.#expectSound(targets, transfer.to.tier);
    if (transfer.to.tier === 'hbm') {
      const taken = new Set(
        [...this.running.filter(({ holding }) => !targets.every((block) => holding.blocks.includes(block))), ...this.#underWay].flatMap(usedBy),
      );
      for (const block of targets) assert.equal(taken.has(block), false);
      for (const block of targets) this.#hbm.delete(block);
    } else for (const block of targets) this.#dram.delete(block);
    this.#underWay.push({ transfer, isPerformed: false });
  }

  arrive(at: number): void {
    const one = this.#underWay[at % Math.max(1, this.#underWay.length)];
    if (one === undefined) return;
    if (!one.isPerformed) this.#perform(this.#underWay.indexOf(one));
    this.#underWay.splice(this.#underWay.indexOf(one), 1);
    this.cache.transfers.done(one.transfer.id);
    this.#mendAll();
    for (const { holding, tokens } of this.running) if (this.cache.queryPopulate(holding) === 'done') this.#checkRead(holding, tokens, holding.known);
  }

  check(): void {
    const { cache } = this;
    this.#stored.hear(this.cache.events);
    const { held: holdings, nobodys, free: unused } = this.#places();
    const held = holdings.size;
    assert.deepEqual([cache.used, cache.transfers.blocks], [held, nobodys.size]);
    assert.deepEqual([cache.mapped_out, cache.mapped_out_dram], [this.#bad.size, this.#badDram.size]);
    this.#expectSound(unused);
    for (const block of unused) assert.equal(holdings.has(block) || nobodys.has(block), false);
    assert.equal(unused.length + cache.cached + held + nobodys.size, this.#limits.blocks - this.#bad.size);
    for (const { holding, lost } of this.running) this.#expectSound(holding.blocks.filter((block) => !lost.has(block)));
    const free = cache.blocks - held - cache.transfers.blocks;
    assert.equal(cache.canAllocate(free), true);
    assert.equal(cache.canAllocate(free + 1), false);
    // What a copy to DRAM writes is nobody else's, even if it was given up.
    const written = this.#underWay.flatMap(({ transfer: { to } }) => (to.tier === 'dram' ? to.blocks : []));
    assert.equal(new Set(written).size, written.length);
    // And what is read from there stays until it has been, though it was forgotten.
    const read = this.#underWay.flatMap(({ transfer: { kind, from } }) => (kind === 'swap-in' ? from.blocks : []));
    const known = written.filter((block) => !this.#badDram.has(block)).length + this.#stored.CPU.size;
    assert.ok(cache.dram_blocks_used >= known - read.filter((block) => this.#badDram.has(block)).length);
    assert.ok(cache.dram_blocks_used <= known + read.length);
    assert.ok(cache.dram_blocks_used <= this.#limits.dram_blocks);
  }

  /** Everybody leaves, and everything is dropped: nothing is left. */
  end(): void {
    const { cache } = this;
    while (this.running[0] !== undefined) this.finish(this.running[0]);
    while (this.#underWay.length > 0) this.arrive(0);
    this.check();
    // Whoever was told of the cache's blocks knows exactly those.
    assert.equal(this.#stored.GPU.size, cache.cached);
    this.takeAll();
    cache.drop();
    this.check();
    assert.deepEqual([cache.used, cache.cached, cache.dram_blocks_used, cache.transfers.size], [0, 0, 0, 0]);
    assert.deepEqual([this.#stored.GPU.size, this.#stored.CPU.size], [0, 0]);
  }

  /** Whoever asks for all blocks that there are gets each once, but those that somebody has, and those that went bad. */
  takeAll(): void {
    const { cache } = this;
    const { held, nobodys } = this.#places();
    const others = Array.from({ length: this.#limits.blocks }, (_, block) => block).filter((block) => !held.has(block) && !nobodys.has(block));
    const all = cache.matchByPrefixToken('', [], 0);
    const given = cache.allocBlocks(all, cache.blocks - held.size - nobodys.size);
    for (const block of given) this.#hbm.delete(block);
    assert.deepEqual(
      given.toSorted((a, b) => a - b),
      others.filter((block) => !this.#bad.has(block)),
    );
    cache.free(all);
  }

  /** Blocks of HBM that did not go bad: that sequences have; that transfers alone have; that nobody has, and hold nothing. */
  #places(): { readonly held: ReadonlySet<number>; readonly nobodys: ReadonlySet<number>; readonly free: readonly number[] } {
    const held = new Set(this.running.flatMap(({ holding }) => holding.blocks).filter((block) => !this.#bad.has(block)));
    const nobodys = new Set(this.#underWay.flatMap(usedBy).filter((block) => !this.#bad.has(block) && !held.has(block)));
    return { held, nobodys, free: (this.cache.toJSON() as { free: number[] }).free };
  }

  /** They are blocks, each once, and none that went bad. */
  #expectSound(blocks: readonly number[], tier: 'hbm' | 'dram' = 'hbm'): void {
    const [count, bad] = tier === 'hbm' ? [this.#limits.blocks, this.#bad] : [this.#limits.dram_blocks, this.#badDram];
    assert.equal(new Set(blocks).size, blocks.length);
    for (const block of blocks) assert.ok(block >= 0 && block < count && !bad.has(block), `block ${block}`);
  }

  /** Any block, or one that is moved, or held. `leaves`: who waits for a transfer of its blocks waits no more. */
  #goBad(leaves: boolean, at: number, count: number): void {
    const moved = this.#underWay.flatMap(usedBy);
    const held = this.running.flatMap(({ holding }) => holding.blocks);
    const block = oneOf([[], moved, held][at % 3] as number[], at + count, this.#limits.blocks);
    // Some must be left.
    if (3 * (this.#bad.size + 1) > this.#limits.blocks || this.#bad.has(block)) return;
    this.#bad.add(block);
    this.#hbm.set(block, GARBAGE);
    for (const { holding, lost } of this.running) if (holding.blocks.includes(block)) lost.add(block);
    if (leaves) for (const sequence of [...this.running]) if (this.cache.queryPopulate(sequence.holding) === 'copying') this.finish(sequence);
    this.cache.mapOut([block]);
    this.#mendAll();
  }

  #goBadBelow(at: number, count: number): void {
    const moved = this.#underWay.flatMap(({ transfer: { kind, from, to } }) => (kind === 'swap-in' ? from.blocks : kind === 'swap-out' ? to.blocks : []));
    const block = oneOf(at % 2 === 0 ? [] : moved, at + count, this.#limits.dram_blocks);
    if (3 * (this.#badDram.size + 1) > this.#limits.dram_blocks || this.#badDram.has(block)) return;
    this.#badDram.add(block);
    this.#dram.set(block, GARBAGE);
    this.cache.mapOutDram([block]);
  }

  #mendAll(): void {
    for (const sequence of [...this.running]) if (this.cache.queryPopulate(sequence.holding) !== 'copying') this.#mend(sequence);
  }

  /** As whoever runs does: what lay in bad blocks is computed again in others; or it gives way. */
  #mend(sequence: Sequence): void {
    const { cache } = this;
    const { holding, tokens, lost } = sequence;
    const { tail } = holding;
    if (tail !== null && !holding.ownsTail && lost.has(tail.block)) cache.letGoOfTail(holding);
    for (const [index, bad] of holding.blocks.entries()) {
      if (!lost.has(bad)) continue;
      const taken = this.#taken(sequence);
      if (!cache.replace(holding, index)) {
        this.finish(sequence);
        return;
      }
      const block = holding.blocks[index] as number;
      this.#expectSound([block]);
      assert.equal(taken.has(block), false);
      const known = Math.max(sequence.computed, holding.known);
      this.#hbm.set(block, this.#cells.of(holding.space, tokens, Math.min((index + 1) * BLOCK, known)).slice(index * BLOCK));
    }
  }

  /** Read by position, each must hold what its own tokens say. */
  #checkRead({ space, blocks }: Holding, tokens: readonly number[], positions: number): void {
    const read = Array.from({ length: positions }, (_, at) => this.#hbm.get(blocks[Math.floor(at / BLOCK)] as number)?.[at % BLOCK]);
    assert.deepEqual(read, this.#cells.of(space, tokens, positions));
  }

  #taken(sequence: Sequence): Set<number> {
    return new Set([...this.running.filter((other) => other !== sequence), ...this.#underWay].flatMap(usedBy));
  }

  #startIf(transfer: CacheCopy | null): void {
    if (transfer !== null) this.start(transfer);
  }

  #runWhole(space: string, tokens: number[]): void {
    const before = this.running.length;
    this.begin(space, tokens);
    const sequence = this.running[before];
    if (sequence === undefined) return;
    this.compute(sequence, tokens.length);
    if (sequence.computed === tokens.length) this.finish(sequence);
  }

  #fetch({ holding, tokens }: Sequence, count: number): void {
    if (this.cache.queryPopulate(holding) !== 'none' || holding.blocks.length > holding.path.length) return;
    const first = holding.path.length;
    const blocks = Math.min(count, Math.floor((tokens.length - 1) / BLOCK) - first);
    if (blocks <= 0) return;
    const addresses = Array.from({ length: blocks }, (_, index) => {
      const address = this.#next++;
      this.#remote.set(address, this.#cells.of(holding.space, tokens, (first + index + 1) * BLOCK).slice(-BLOCK));
      return address;
    });
    this.#startIf(this.cache.populate(holding, { tokens, addresses, generations: addresses.map(() => GENERATION) }));
  }

  /** As a preempted sequence does: its blocks are copied out at once. */
  #giveWay(sequence: Sequence): void {
    const path = this.cache.remember(sequence.holding);
    this.finish(sequence);
    this.#startIf(this.cache.copy(path));
  }

  #perform(at: number): void {
    const one = this.#underWay[at % Math.max(1, this.#underWay.length)];
    if (one === undefined || one.isPerformed) return;
    one.isPerformed = true;
    const { from, to } = one.transfer;
    const source = 'addresses' in from ? this.#remote : from.tier === 'hbm' ? this.#hbm : this.#dram;
    const target = to.tier === 'hbm' ? this.#hbm : this.#dram;
    if ('addresses' in from) for (const generation of from.generations) assert.equal(generation, GENERATION);
    blocksOf(from).forEach((block, index) => {
      const at = blocksOf(to)[index] as number;
      const isBad = to.tier === 'hbm' ? this.#bad.has(at) : this.#badDram.has(at);
      target.set(at, isBad ? GARBAGE : [...(source.get(block) ?? [])]);
    });
  }

  #fail(at: number): void {
    const one = this.#underWay[at % Math.max(1, this.#underWay.length)];
    if (one === undefined) return;
    this.#underWay.splice(this.#underWay.indexOf(one), 1);
    this.cache.transfers.fail(one.transfer.id);
    this.#mendAll();
  }
}

const oneOf = (blocks: readonly number[], which: number, all: number): number => blocks[which % Math.max(1, blocks.length)] ?? which % all;

const blocksOf = (places: CacheCopy['from'] | CacheCopy['to']): readonly number[] => ('addresses' in places ? places.addresses : places.blocks);

/**
 * Blocks of HBM that a sequence or a transfer reads or writes, and that nobody else may write meanwhile. What is copied out to DRAM may be written before the
 * copy is performed: then nobody looks at what that has written.
 */
function usedBy(one: Sequence | UnderWay): readonly number[] {
  if ('holding' in one) return one.holding.blocks;
  const { kind, from, to } = one.transfer;
  return [...('tier' in from && kind === 'copy' ? from.blocks : []), ...(to.tier === 'hbm' ? to.blocks : [])];
}
