/**
 * Sums of KV where it rests: what an NPU's blocks hold is summed when it is written, and looked at again behind each attention that has read it, before any token
 * that came of it is drawn. So no token leaves that memory gone bad had a part in: the step fails, and names the blocks.
 *
 *   step:   begin ─▶ … layers: rows are written, all blocks of their sequences are read … ─▶ end ─▶ tokens are drawn
 *             │                                                                              ├ what was there before has its sum still, or is damaged
 *             └ a sum that covers more than is gone on from (drafts that were wrong,         └ what was written has one from now on
 *               the end of a block that was pulled) is cut, before anything is written there
 *
 *   copies within an NPU's memory and to DRAM take the sum along: what they spread is found out where it is read
 *
 * A sum covers the first `filled` positions of its block, in the layers of the main model: what drafts are made of decides no token. Nothing guards rows between
 * the moment they are written and the end of their step.
 *
 * A sum is cut only in blocks that nobody else reads: rows that are computed again for what is made of them are not written again (`StepEntry.kept`). So where a step
 * fails in the midst of it, on this rank or on another, every sum still is that of the positions that count; the sequence goes on from where it is cut, or before.
 *
 * Sums lie beside the blocks, since threads that fill blocks of others (kv-transfers.ts) sum what they have brought.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { StepEntry } from '../../protocol/steps.ts';
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';
import type { KvPlace } from '../layouts/step-layout.ts';
import type { SlotTables } from '../steps/slot-blocks.ts';

/** Blocks that do not hold what was written there. */
export class KvDamage extends MinipodError {
  readonly blocks: readonly number[];

  constructor(npu: number, blocks: readonly number[]) {
    super('memory_fault', `${blocks.length} KV blocks of NPU ${npu} do not hold what was written there: ${blocks.join(', ')}`);
    this.blocks = blocks;
  }
}

/** Of a block, wherever it lies; `filled` 0: nobody has summed it. */
export type KvSum = { readonly sum: number; readonly filled: number };

export const NOT_SUMMED: KvSum = { sum: 0, filled: 0 };

/** Of the memory's owner, to whom nothing that lies there is known yet; null: nothing is summed. */
export function ownKvSums(npu: number, space: AddressSpace, kv: KvPlace, checksum: Checksum | undefined): KvSums | null {
  if (checksum === undefined) return null;
  const sums = new KvSums(npu, space, kv, checksum);
  for (let block = 0; block < kv.blocks; block++) sums.set(block, NOT_SUMMED);
  return sums;
}

const NO_BLOCKS: readonly number[] = [];

type Tokens = Pick<StepEntry, 'slot' | 'start' | 'tokens' | 'kept'>;

export class KvSums {
  readonly #npu: number;
  readonly #kv: KvPlace;
  readonly #sum: Checksum['rest'];
  readonly #words: Int32Array;
  readonly #sumsAt: number;
  readonly #filledAt: number;
  /** Of a block, from its beginning. */
  readonly #guarded_bytes: number;
  /** By block: the look that it was last looked at in. */
  readonly #looks: Float64Array;
  #look = 0;

  constructor(npu: number, space: AddressSpace, kv: KvPlace, checksum: Checksum) {
    this.#npu = npu;
    this.#kv = kv;
    this.#sum = checksum.rest;
    this.#words = space.wordsOf(kv.sums);
    this.#sumsAt = offsetOf(kv.sums) / 4;
    this.#filledAt = offsetOf(kv.filled) / 4;
    this.#guarded_bytes = kv.layers * kv.layer_bytes;
    this.#looks = new Float64Array(kv.blocks);
  }

  /** Before a step writes: what it goes on behind, in blocks that it writes on in, has sums of its own. @throws `KvDamage` */
  begin(entries: readonly Tokens[], tables: SlotTables): void {
    const { block_size } = this.#kv;
    const damaged: number[] = [];
    for (const { slot, start, tokens, kept = 0 } of entries) {
      const first = start + kept;
      if (kept === tokens.length) continue;
      const table = tables[slot] ?? NO_BLOCKS;
      // Of what is written over nothing is known any more.
      for (let at = Math.ceil(first / block_size); at * block_size < start + tokens.length; at++) this.set(table[at] as number, NOT_SUMMED);
      const rest = first % block_size;
      if (rest === 0) continue;
      const block = table[(first - rest) / block_size] as number;
      const { filled } = this.of(block);
      if (filled === rest) continue;
      if (this.isSound(block)) this.#take(block, rest);
      else damaged.push(block);
    }
    this.#refuse(damaged);
  }

  /** When its layers have read and written. @throws `KvDamage`; then nothing of it is summed, since what it has written came of that */
  end(entries: readonly Tokens[], tables: SlotTables): void {
    const { block_size } = this.#kv;
    const damaged: number[] = [];
    this.#look++;
    for (const { slot, start, kept = 0 } of entries) {
      const table = tables[slot] ?? NO_BLOCKS;
      const first = start + kept;
      for (let index = 0, at = 0; at < first; index++, at += block_size) {
        const block = table[index] as number;
        if (this.#looks[block] === this.#look) continue;
        this.#looks[block] = this.#look;
        if (!this.#holds(block, Math.min(block_size, first - at))) damaged.push(block);
      }
    }
    this.#refuse(damaged);
    for (const { slot, start, tokens, kept = 0 } of entries) {
      if (kept === tokens.length) continue;
      const table = tables[slot] ?? NO_BLOCKS;
      const end = start + tokens.length;
      for (let index = Math.floor((start + kept) / block_size); index * block_size < end; index++)
        this.#take(table[index] as number, Math.min(block_size, end - index * block_size));
    }
  }

  /** A block is filled from elsewhere: it has the sum of the whole one that lies at `address`. Whoever brings it proves it then. */
  arrive(block: number, address: number): void {
    const { block_size } = this.#kv;
    this.set(block, { sum: this.#sumAt(address, block_size), filled: block_size });
  }

  of(block: number): KvSum {
    return { sum: this.#words[this.#sumsAt + block] as number, filled: this.#words[this.#filledAt + block] as number };
  }

  /** The sum of all that a block holds. Null: nobody has summed it, it is not full, or drafts have layers in it that no sum covers. */
  ofAll(block: number): number | null {
    const { sum, filled } = this.of(block);
    return filled === this.#kv.block_size && this.#guarded_bytes === this.#kv.block_bytes ? sum : null;
  }

  /** A block is filled from elsewhere, and proved by the sum of the whole one that lay there. */
  keep(block: number, sum: number): void {
    this.set(block, { sum, filled: this.#kv.block_size });
  }

  /** What it holds was copied from where it had that sum. */
  set(block: number, { sum, filled }: KvSum): void {
    this.#words[this.#sumsAt + block] = sum;
    this.#words[this.#filledAt + block] = filled;
  }

  /** Of what is summed, all is as it was. */
  isSound(block: number): boolean {
    const { sum, filled } = this.of(block);
    return filled === 0 || this.#sumOf(block, filled) === sum;
  }

  /** As many positions as have been summed; of others nothing is known, so they are from now on. */
  #holds(block: number, positions: number): boolean {
    const filled = this.#words[this.#filledAt + block] as number;
    if (filled > 0 && this.#sumOf(block, filled) !== this.#words[this.#sumsAt + block]) return false;
    if (filled < positions) this.#take(block, positions);
    return true;
  }

  #refuse(damaged: readonly number[]): void {
    if (damaged.length > 0) throw new KvDamage(this.#npu, damaged);
  }

  #take(block: number, filled: number): void {
    this.set(block, { sum: this.#sumOf(block, filled), filled });
  }

  #sumOf(block: number, filled: number): number {
    return this.#sumAt(this.#kv.address + block * this.#kv.block_bytes, filled);
  }

  #sumAt(from: number, filled: number): number {
    const { block_size, run_bytes } = this.#kv;
    const end = from + this.#guarded_bytes;
    let sum = 0;
    if (filled === block_size) for (let at = from; at < end; at += CHUNK_BYTES) sum = this.#sum(sum, at, Math.min(CHUNK_BYTES, end - at));
    else for (let run = from; run < end; run += run_bytes) sum = this.#sum(sum, run, (filled * run_bytes) / block_size);
    return sum;
  }
}
