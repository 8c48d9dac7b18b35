/**
 * What routers and stores outside are told of a cache's blocks, in the words of vLLM's KV events: each batch has a number, counted without a gap, and the
 * last ones can be asked for again by whoever missed some.
 *
 * A batch has no time here, since nothing here reads a clock: who sends it on stamps it.
 * @module
 */
import type { KvEvent, KvEventBatch, KvEventBatches, Medium } from '../../src/protocol/kv-events.ts';
import type { PrefixNode } from './prefix-tree.ts';

/** Blocks that follow each other under one parent, stored or removed together, are one event. */
type Run = { readonly type: 'BlockStored' | 'BlockRemoved'; readonly medium: Medium; readonly nodes: PrefixNode[] };
type Happened = Run | { readonly type: 'AllBlocksCleared' };

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

  stored(node: PrefixNode, medium: Medium): void {
    if (this.#batches_max === 0) return;
    const last = this.#open.at(-1);
    if (last?.type === 'BlockStored' && last.medium === medium && last.nodes.at(-1) === node.parent) last.nodes.push(node);
    else this.#open.push({ type: 'BlockStored', medium, nodes: [node] });
  }

  removed(node: PrefixNode, medium: Medium): void {
    if (this.#batches_max === 0) return;
    const last = this.#open.at(-1);
    if (last?.type === 'BlockRemoved' && last.medium === medium) last.nodes.push(node);
    else this.#open.push({ type: 'BlockRemoved', medium, nodes: [node] });
  }

  /** What the open batch says of single blocks is said with it. */
  cleared(): void {
    if (this.#batches_max > 0) this.#open = [{ type: 'AllBlocksCleared' }];
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
    const { nodes, medium } = happened;
    const block_hashes = nodes.map(({ name }) => name);
    if (happened.type === 'BlockRemoved') return { type: 'BlockRemoved', block_hashes, medium };
    const parent = nodes[0]?.parent ?? null;
    return {
      type: 'BlockStored',
      block_hashes,
      // A root holds no block.
      parent_block_hash: parent === null || parent.parent === null ? null : parent.name,
      token_ids: nodes.flatMap(({ tokens }) => tokens),
      block_size: this.#block_size,
      lora_id: null,
      medium,
    };
  }
}
