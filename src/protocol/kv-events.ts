/** What routers and stores outside are told of a DP group's KV blocks, in the words of `vllm.distributed.kv_events`. @module */

/** Tiers by vLLM's names: HBM, and host DRAM. */
export type Medium = 'GPU' | 'CPU';

/** Fields as in vLLM; `type` is their tag. */
export type KvEvent =
  | {
      readonly type: 'BlockStored';
      readonly block_hashes: readonly number[];
      readonly parent_block_hash: number | null;
      /** Of all the blocks, in order. */
      readonly token_ids: readonly number[];
      readonly block_size: number;
      readonly lora_id: number | null;
      readonly medium: Medium;
    }
  | { readonly type: 'BlockRemoved'; readonly block_hashes: readonly number[]; readonly medium: Medium }
  | { readonly type: 'AllBlocksCleared' };

/** What happened in one step. Batches of a DP group are counted from 0, without a gap. */
export type KvEventBatch = { readonly seq: number; readonly events: readonly KvEvent[] };

/** Batches from a number on, as far back as they are kept: the first's own number says whether some are lost. */
export type KvEventPage = {
  readonly batches: readonly KvEventBatch[];
  /** The number that the next batch will have. Less than what was asked for: the group's worker was started anew, and its cache with it. */
  readonly next: number;
};
