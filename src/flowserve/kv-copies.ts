/**
 * The hands of the relational tensor cache: copies KV blocks between an NPU's HBM and its host DRAM, and within HBM, by `memory.copy`.
 * Every rank of a group holds the whole KV, so DRAM keeps the first rank's, and all of them are given it back.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { BlockPool } from '../fabric/block-pool.ts';
import { assert } from '../protocol/errors.ts';
import type { TierBlocks, TierCopy } from '../protocol/transfers.ts';
import type { Directory } from '../runtime/directory.ts';
import { type AnyPodPlan, onDie } from './pod-plan.ts';

export type KvCopiesOptions = { readonly plan: AnyPodPlan; readonly space: AddressSpace; readonly directory: Directory };

export class KvCopies {
  readonly #options: KvCopiesOptions;
  /** Of the NPUs of this host. */
  readonly #pools: ReadonlyMap<number, BlockPool>;

  constructor(options: KvCopiesOptions, pools: ReadonlyMap<number, BlockPool>) {
    this.#options = options;
    this.#pools = pools;
  }

  /** `npus`: the ranks of the group. How many bytes moved. */
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
    for (const [index, block] of to.blocks.entries()) {
      // Who was lent what lay here before must see that it does no longer.
      if (to.tier === 'hbm') this.#pools.get(target)?.renew(block);
      space.copy(this.#addressOf(target, to.tier, block), this.#addressOf(source, from.tier, from.blocks[index] as number), block_bytes);
    }
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
