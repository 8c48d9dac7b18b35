/**
 * The hands of the relational tensor cache: copies KV blocks between an NPU's HBM and its host DRAM, and within HBM, by `memory.copy`.
 * Every rank of a group holds the whole KV, so DRAM keeps the first rank's, and all of them are given it back.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { BlockPool } from '../../fabric/block-pool.ts';
import { assert, MinipodError } from '../../protocol/errors.ts';
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
    const { space, directory, plan } = this.#options;
    const { block_bytes } = onDie(plan, target, directory.dieOfNpu(target)).kv;
    const damaged: number[] = [];
    for (const [index, block] of to.blocks.entries()) {
      // Who was lent what lay here before must see that it does no longer.
      if (to.tier === 'hbm') this.#pools.get(target)?.renew(block);
      const [here, there] = [this.#addressOf(target, to.tier, block), this.#addressOf(source, from.tier, from.blocks[index] as number)];
      space.copy(here, there, block_bytes);
      const sum = from.tier === 'hbm' ? this.#sumsOf(source)?.of(from.blocks[index] as number) : this.#inDram.get(there);
      if (to.tier === 'dram') this.#inDram.set(here, sum ?? NOT_SUMMED);
      else this.#sumsOf(target)?.set(block, sum ?? NOT_SUMMED);
      // Or its block of HBM would be blamed for it.
      if (from.tier === 'dram' && this.#sumsOf(target)?.isSound(block) === false) damaged.push(from.blocks[index] as number);
    }
    if (damaged.length > 0) throw new DramDamage(source, damaged);
    return to.blocks.length * block_bytes;
  }

  #addressOf(npu: number, tier: TierBlocks['tier'], block: number): number {
    const { plan, directory } = this.#options;
    const die = directory.dieOfNpu(npu);
    const { address, block_bytes, blocks } = onDie(plan, npu, die).kv;
    if (tier === 'hbm') {
      assert(block >= 0 && block < blocks, `NPU ${npu} has ${blocks} KV blocks, and block ${block} is copied`);
      return address + block * block_bytes;
    }
    const dram = plan.drams[die];
    assert(dram !== undefined && block >= 0 && (block + 1) * block_bytes <= dram.bytes, `there is no block ${block} of DRAM below NPU ${npu}`);
    return dram.base + block * block_bytes;
  }
}
