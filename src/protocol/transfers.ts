/**
 * What DP groups ask of DistFlow, and what comes of it.
 * @module
 */
import type { DpGroupMessage, KvOffer } from './messages.ts';

/** Blocks in a tier of the DP group's own, by number. */
export type TierBlocks = { readonly tier: 'hbm' | 'dram'; readonly blocks: readonly number[] };

/** Each block to the one at its place: out of HBM to DRAM and back, or before one of several readers writes (relational tensor cache). */
export type TierCopy = { readonly kind: 'swap-out' | 'swap-in' | 'copy'; readonly id: number; readonly from: TierBlocks; readonly to: TierBlocks };

/** Work of DistFlow for a DP group, `id` being the group's own name for it. Blocks are by index in the pool of the group's NPU. */
export type Transfer =
  /** Lends blocks, which nobody writes any more; or which the group's step of that number fills layer by layer, once it has begun (0: none). */
  | { readonly kind: 'offer'; readonly id: number; readonly blocks: readonly number[]; readonly step: number }
  /** The offer ends, at once or when its puller has let go of it. */
  | { readonly kind: 'withdraw'; readonly id: number }
  /** Copies what is lent into own blocks. */
  | { readonly kind: 'pull'; readonly id: number; readonly offer: KvOffer; readonly blocks: readonly number[] }
  /** The pull ends, when nothing is written any more. */
  | { readonly kind: 'stop'; readonly id: number }
  | TierCopy;

/** What came of a transfer. */
export type TransferMessage = Extract<DpGroupMessage, { readonly type: 'OFFERED' | 'TRANSFER_DONE' | 'TRANSFER_FAILED' }>;
