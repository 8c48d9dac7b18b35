/** What somebody who is told of a cache's KV events knows of it. */
import assert from 'node:assert/strict';
import type { KvEventLog } from '../../actors/policies/kv-events.ts';
import type { KvEvent } from '../../src/protocol/kv-events.ts';

export class HeardEvents {
  /** Blocks that each tier keeps, by their names. */
  readonly GPU = new Set<number>();
  readonly CPU = new Set<number>();
  readonly #block_size: number;
  #seq = 0;

  constructor(block_size: number) {
    this.#block_size = block_size;
  }

  /** All that has happened since. */
  hear(log: KvEventLog): void {
    log.endBatch();
    for (const { seq, events } of log.since(this.#seq).batches) {
      assert.equal(seq, this.#seq++);
      for (const event of events) this.#hear(event);
    }
  }

  #hear(event: KvEvent): void {
    if (event.type === 'AllBlocksCleared') {
      this.GPU.clear();
      this.CPU.clear();
      return;
    }
    const stored = this[event.medium];
    if (event.type === 'BlockRemoved') {
      for (const hash of event.block_hashes) assert.equal(stored.delete(hash), true);
      return;
    }
    const { parent_block_hash: parent, block_hashes, token_ids } = event;
    assert.equal(token_ids.length, block_hashes.length * this.#block_size);
    if (parent !== null) assert.equal(this.GPU.has(parent) || this.CPU.has(parent), true);
    for (const hash of block_hashes) {
      assert.equal(stored.has(hash), false);
      stored.add(hash);
    }
  }
}
