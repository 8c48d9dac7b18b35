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
export type KvEventBatches = {
  readonly batches: readonly KvEventBatch[];
  /** The number that the next batch will have. */
  readonly next: number;
};

/** The same, and of which life of the group: another one than before, and its cache is another, whose batches count from 0; what was known of it is no more. */
export type KvEventPage = KvEventBatches & { readonly life: number };

/** Lives that one worker's seat may have under one control thread: with the next one they go on behind these. */
const LIVES_MAX = 2 ** 20;

/** Which life of the pod's groups it is: `worker`, of theirs, under a control thread before which so many were lost. */
export const kvLife = (controls_lost: number, worker: number): number => controls_lost * LIVES_MAX + worker;
