/**
 * What routers and stores outside are told of a cache's blocks, in the words of vLLM's KV events: each batch has a number, counted without a gap, and the
 * last ones can be asked for again by whoever missed some.
 *
 * A batch has no time here, since nothing here reads a clock: who sends it on stamps it.
 * @module
 */
import type { KvEvent, KvEventBatch, KvEventBatches, Medium } from '../../src/protocol/kv-events.ts';

/** A block of the prefix tree; `parent`: the name of the one before it, null where there is none. */
export type NamedBlock = { readonly name: number; readonly parent: number | null; readonly tokens: readonly number[] };

/** Blocks that follow each other under one parent, stored or removed together, are one event. */
type Stored = { readonly type: 'BlockStored'; readonly medium: Medium; readonly blocks: NamedBlock[] };
type Removed = { readonly type: 'BlockRemoved'; readonly medium: Medium; readonly names: number[] };
type Happened = Stored | Removed | { readonly type: 'AllBlocksCleared' };

export class KvEventLog {
  readonly #block_size: number;
  /** Batches that can be asked for again. */
  readonly #batches_max: number;
  readonly #batches: (readonly Happened[])[] = [];
  /** Of the first of `#batches`. */
  #first = 0;
  #open: Happened[] = [];

  /** `batches_max` 0: nothing is noted. */
  constructor(block_size: number, batches_max: number) {
    this.#block_size = block_size;
    this.#batches_max = batches_max;
  }

  /** Whether anything is noted: else nobody need ask the tree for names. */
  get isOn(): boolean {
    return this.#batches_max > 0;
  }

  stored(block: NamedBlock, medium: Medium): void {
    const last = this.#open.at(-1);
    if (last?.type === 'BlockStored' && last.medium === medium && last.blocks.at(-1)?.name === block.parent) last.blocks.push(block);
    else this.#open.push({ type: 'BlockStored', medium, blocks: [block] });
  }

  removed(name: number, medium: Medium): void {
    const last = this.#open.at(-1);
    if (last?.type === 'BlockRemoved' && last.medium === medium) last.names.push(name);
    else this.#open.push({ type: 'BlockRemoved', medium, names: [name] });
  }

  /** What the open batch says of single blocks is said with it. */
  cleared(): void {
    if (this.isOn) this.#open = [{ type: 'AllBlocksCleared' }];
  }

  /** Ends a batch, such as that of a step, if anything happened in it. */
  endBatch(): void {
    if (this.#open.length === 0) return;
    this.#batches.push(this.#open);
    this.#open = [];
    if (this.#batches.length <= this.#batches_max) return;
    this.#batches.shift();
    this.#first++;
  }

  /** Batches from number `seq` on, so many at most. */
  since(seq: number, batches_max = Number.POSITIVE_INFINITY): KvEventBatches {
    const skipped = Math.max(0, seq - this.#first);
    const batches = this.#batches.slice(skipped, skipped + batches_max).map(
      (happened, index): KvEventBatch => ({
        seq: this.#first + skipped + index,
        events: happened.map((one) => this.#eventOf(one)),
      }),
    );
    return { batches, next: this.#first + this.#batches.length };
  }

  #eventOf(happened: Happened): KvEvent {
    if (happened.type === 'AllBlocksCleared') return happened;
    const { medium } = happened;
    if (happened.type === 'BlockRemoved') return { type: 'BlockRemoved', block_hashes: happened.names, medium };
    const { blocks } = happened;
    return {
      type: 'BlockStored',
      block_hashes: blocks.map(({ name }) => name),
      parent_block_hash: blocks[0]?.parent ?? null,
      token_ids: blocks.flatMap(({ tokens }) => tokens),
      block_size: this.#block_size,
      lora_id: null,
      medium,
    };
  }
}
