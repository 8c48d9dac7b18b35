/**
 * What routers and stores outside are told of a cache's blocks, in the words of vLLM's KV events: each batch has a number, counted without a gap, and the
 * last ones can be asked for again by whoever missed some.
 *
 * A batch has no time here, since nothing here reads a clock: who sends it on stamps it.
 * @module
 */
import type { KvEvent, KvEventBatch, KvEventBatches, Medium } from '../../src/protocol/kv-events.ts';

/**
 * Blocks that follow each other under one parent, stored or removed together, are one event. `parent`: the name of the one before the first, null where there is
 * none. `tokens`: of all of them, in one list: a list for each block of a prompt that was brought takes as long as to plan its step.
 */
type Stored = { readonly type: 'BlockStored'; readonly medium: Medium; readonly parent: number | null; readonly names: number[]; readonly tokens: number[] };
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

  /** A block of that name behind `parent`. Where its tokens are to be written, behind those of the blocks before it. */
  stored(name: number, parent: number | null, medium: Medium): number[] {
    let event = this.#open.at(-1);
    if (event?.type !== 'BlockStored' || event.medium !== medium || event.names.at(-1) !== parent) {
      event = { type: 'BlockStored', medium, parent, names: [], tokens: [] };
      this.#open.push(event);
    }
    event.names.push(name);
    return event.tokens;
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
    const { names, parent, tokens } = happened;
    return {
      type: 'BlockStored',
      block_hashes: names,
      parent_block_hash: parent,
      token_ids: tokens,
      block_size: this.#block_size,
      lora_id: null,
      medium,
    };
  }
}
