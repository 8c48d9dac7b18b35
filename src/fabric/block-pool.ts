/**
 * Blocks of one size in a region, such as KV blocks: who holds which, seen by every thread.
 *
 *   table, u32 a block:  0 free, else its holder + 1
 *
 * The owner of the region alone holds and frees; who frees what it does not hold, or holds what another holds, is told at once.
 * @module
 */
import { assert, MinipodError } from '../protocol/errors.ts';
import { offsetOf } from './address.ts';
import type { AddressSpace } from './address-space.ts';

export type BlockPoolPlace = {
  /** Of its errors: `KV of npu/3`. */
  readonly name: string;
  /** u32 [blocks]. */
  readonly table: number;
  readonly base: number;
  readonly block_bytes: number;
  readonly blocks: number;
};

export class BlockPool {
  readonly place: BlockPoolPlace;
  readonly #words: Int32Array;
  readonly #at: number;
  #used = 0;
  #highWater = 0;

  constructor(space: AddressSpace, place: BlockPoolPlace) {
    this.place = place;
    this.#words = space.wordsOf(place.table);
    this.#at = offsetOf(place.table) / 4;
    for (let block = 0; block < place.blocks; block++) Atomics.store(this.#words, this.#at + block, 0);
  }

  /** Blocks held now. */
  get used(): number {
    return this.#used;
  }

  get high_water(): number {
    return this.#highWater;
  }

  hold(block: number, holder: number): void {
    const before = this.#holder(block);
    assert(before === null, `block ${block} of ${this.place.name} is held by ${before}, and ${holder} was given it`);
    Atomics.store(this.#words, this.#at + block, holder + 1);
    this.#used++;
    this.#highWater = Math.max(this.#highWater, this.#used);
  }

  free(block: number, holder: number): void {
    const before = this.#holder(block);
    assert(before === holder, `block ${block} of ${this.place.name} is held by ${before ?? 'nobody'}, and ${holder} frees it`);
    Atomics.store(this.#words, this.#at + block, 0);
    this.#used--;
  }

  /** Where a held block lies. @throws `memory_fault` for one that is free, another's or none. */
  addressOf(block: number, holder: number): number {
    const { name, base, block_bytes, blocks } = this.place;
    if (block < 0 || block >= blocks) throw new MinipodError('memory_fault', `${name} has ${blocks} blocks, ${holder} asked for block ${block}`);
    const before = this.#holder(block);
    if (before !== holder)
      throw new MinipodError('memory_fault', `block ${block} of ${name} is ${before === null ? 'free' : `held by ${before}`}, and ${holder} asked for it`);
    return base + block * block_bytes;
  }

  /** Who holds what: blocks by holder. */
  holders(): Map<number, number[]> {
    const held = new Map<number, number[]>();
    for (let block = 0; block < this.place.blocks; block++) {
      const holder = this.#holder(block);
      if (holder === null) continue;
      const blocks = held.get(holder);
      if (blocks === undefined) held.set(holder, [block]);
      else blocks.push(block);
    }
    return held;
  }

  #holder(block: number): number | null {
    const word = Atomics.load(this.#words, this.#at + block);
    return word === 0 ? null : word - 1;
  }
}
