/**
 * Blocks of one size in a region, such as KV blocks: how many hold each, and the how manieth content it has, seen by every thread.
 *
 *   table, u32 a block:        0 free or kept for later, else how many hold it
 *   generations, u32 a block:  raised whenever it is held to be written, and by a new owner of the region: who copied it from elsewhere and finds it
 *                              unchanged afterwards has the content that it was told of
 *
 * The owner of the region alone holds and frees. A block is written by the one who held it first; who is given one that others hold, or frees what nobody
 * holds, is told at once.
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
  /** u32 [blocks]. */
  readonly generations: number;
  readonly base: number;
  readonly block_bytes: number;
  readonly blocks: number;
};

export class BlockPool {
  readonly place: BlockPoolPlace;
  readonly #words: Int32Array;
  readonly #at: number;
  readonly #generationsAt: number;
  #used = 0;
  #highWater = 0;

  constructor(space: AddressSpace, place: BlockPoolPlace) {
    this.place = place;
    this.#words = space.wordsOf(place.table);
    this.#at = offsetOf(place.table) / 4;
    this.#generationsAt = offsetOf(place.generations) / 4;
    for (let block = 0; block < place.blocks; block++) {
      Atomics.store(this.#words, this.#at + block, 0);
      Atomics.add(this.#words, this.#generationsAt + block, 1);
    }
  }

  /** Blocks held now. */
  get used(): number {
    return this.#used;
  }

  get high_water(): number {
    return this.#highWater;
  }

  /** To be written: nobody else holds it. */
  hold(block: number): void {
    const holders = this.#holders(block);
    assert(holders === 0, `block ${block} of ${this.place.name} is held by ${holders}, and was given out to be written`);
    // Before anything is written: who copies it meanwhile looks at the generation after the copy.
    Atomics.add(this.#words, this.#generationsAt + block, 1);
    this.#set(block, 1);
    this.#used++;
    this.#highWater = Math.max(this.#highWater, this.#used);
  }

  /** It is filled by a copy, before anybody holds it. */
  renew(block: number): void {
    this.#holders(block);
    Atomics.add(this.#words, this.#generationsAt + block, 1);
  }

  /** To be written by a transfer: who held it before writes it no more, though the release of its slot may still be on its way. */
  rewrite(block: number): void {
    Atomics.add(this.#words, this.#generationsAt + block, 1);
    this.share(block);
  }

  /** To be read only, beside whoever holds it. */
  share(block: number): void {
    const holders = this.#holders(block);
    this.#set(block, holders + 1);
    if (holders === 0) this.#used++;
    this.#highWater = Math.max(this.#highWater, this.#used);
  }

  free(block: number): void {
    const holders = this.#holders(block);
    assert(holders > 0, `block ${block} of ${this.place.name} is freed, and nobody holds it`);
    this.#set(block, holders - 1);
    if (holders === 1) this.#used--;
  }

  /** Where a held block lies. @throws `memory_fault` for one that nobody holds, or none. */
  addressOf(block: number): number {
    const { name, base, block_bytes } = this.place;
    if (this.#holders(block) === 0) throw new MinipodError('memory_fault', `block ${block} of ${name} is asked for, and nobody holds it`);
    return base + block * block_bytes;
  }

  /** Of its content, as u32. */
  generationOf(block: number): number {
    this.#holders(block);
    return Atomics.load(this.#words, this.#generationsAt + block) >>> 0;
  }

  /** Who holds what: holders by block, of those that are held. */
  holders(): Map<number, number> {
    const held = new Map<number, number>();
    for (let block = 0; block < this.place.blocks; block++) if (this.#holders(block) > 0) held.set(block, this.#holders(block));
    return held;
  }

  #holders(block: number): number {
    const { name, blocks } = this.place;
    if (block < 0 || block >= blocks) throw new MinipodError('memory_fault', `${name} has ${blocks} blocks, and block ${block} was asked for`);
    return Atomics.load(this.#words, this.#at + block);
  }

  #set(block: number, holders: number): void {
    Atomics.store(this.#words, this.#at + block, holders);
  }
}
