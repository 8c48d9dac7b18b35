/**
 * The hands of the relational tensor cache: copies KV blocks between an NPU's HBM and its host DRAM, and within HBM, by `memory.copy`.
 * Every rank of a group holds the whole KV, so DRAM keeps the first rank's, and all of them are given it back.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { BlockPool } from '../../fabric/block-pool.ts';
import { assert, invariantBroken, MinipodError } from '../../protocol/errors.ts';
import type { TierBlocks, TierCopy } from '../../protocol/transfers.ts';
import type { Directory } from '../../runtime/directory.ts';
import { type AnyPodPlan, onDie } from '../pod-plan.ts';
import { type KvSum, type KvSums, NOT_SUMMED } from './kv-sums.ts';

/** Blocks of DRAM that do not hold what was copied there. */
export class DramDamage extends MinipodError {
  readonly blocks: readonly number[];

  constructor(npu: number, blocks: readonly number[]) {
    super('memory_fault', `${blocks.length} blocks of the DRAM below NPU ${npu} do not hold what was copied there: ${blocks.join(', ')}`);
    this.blocks = blocks;
  }
}

export type KvCopiesOptions = { readonly plan: AnyPodPlan; readonly space: AddressSpace; readonly directory: Directory };

export class KvCopies {
  readonly #options: KvCopiesOptions;
  /** Of the NPUs of this host. */
  readonly #pools: ReadonlyMap<number, BlockPool>;
  /** By NPU; null: nothing is summed. */
  readonly #sumsOf: (npu: number) => KvSums | null;
  /** Of blocks in DRAM, by address. */
  readonly #inDram = new Map<number, KvSum>();

  constructor(options: KvCopiesOptions, pools: ReadonlyMap<number, BlockPool>, sumsOf: (npu: number) => KvSums | null) {
    this.#options = options;
    this.#pools = pools;
    this.#sumsOf = sumsOf;
  }

  /** `npus`: the ranks of the group. How many bytes moved. @throws `DramDamage` */
  perform(npus: readonly number[], { kind, from, to }: TierCopy): number {
    const [first, ...others] = npus as [number, ...number[]];
    const sources = kind === 'copy' ? npus : npus.map(() => first);
    const targets = kind === 'swap-out' ? [first] : [first, ...others];
    let bytes = 0;
    for (const [rank, npu] of targets.entries()) bytes += this.#copy(npu, to, sources[rank] as number, from);
    return bytes;
  }

  #copy(target: number, to: TierBlocks, source: number, from: TierBlocks): number {
    const { space } = this.#options;
    // Once for all of them: to find out where an NPU has its blocks takes as long as to copy one.
    const [targets, sources] = [this.#placeOf(target, to.tier), this.#placeOf(source, from.tier)];
    const [targetSums, sourceSums] = [this.#sumsOf(target), this.#sumsOf(source)];
    const pool = to.tier === 'hbm' ? this.#pools.get(target) : undefined;
    const { block_bytes } = targets;
    const damaged: number[] = [];
    for (let index = 0; index < to.blocks.length; index++) {
      const [block, read] = [to.blocks[index] as number, from.blocks[index] as number];
      // Who was lent what lay here before must see that it does no longer.
      pool?.renew(block);
      const [here, there] = [addressOf(targets, block), addressOf(sources, read)];
      space.copy(here, there, block_bytes);
      const sum = from.tier === 'hbm' ? sourceSums?.of(read) : this.#inDram.get(there);
      if (to.tier === 'dram') this.#inDram.set(here, sum ?? NOT_SUMMED);
      else targetSums?.set(block, sum ?? NOT_SUMMED);
      // Or its block of HBM would be blamed for it.
      if (from.tier === 'dram' && targetSums?.isSound(block) === false) damaged.push(read);
    }
    if (damaged.length > 0) throw new DramDamage(source, damaged);
    return to.blocks.length * block_bytes;
  }

  #placeOf(npu: number, tier: TierBlocks['tier']): TierPlace {
    const { plan, directory } = this.#options;
    const die = directory.dieOfNpu(npu);
    const { address, block_bytes, blocks } = onDie(plan, npu, die).kv;
    if (tier === 'hbm') return { npu, tier, address, block_bytes, blocks };
    const dram = plan.drams[die];
    assert(dram !== undefined, `there is no DRAM below NPU ${npu}`);
    return { npu, tier, address: dram.base, block_bytes, blocks: Math.floor(dram.bytes / block_bytes) };
  }
}

/** The blocks of an NPU's tier. */
type TierPlace = { readonly npu: number; readonly tier: TierBlocks['tier']; readonly address: number; readonly block_bytes: number; readonly blocks: number };

function addressOf({ npu, tier, address, block_bytes, blocks }: TierPlace, block: number): number {
  if (block < 0 || block >= blocks) invariantBroken(`NPU ${npu} has ${blocks} blocks of ${tier}, and block ${block} is copied`);
  return address + block * block_bytes;
}
