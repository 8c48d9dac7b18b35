/**
 * What a step begins with, where its kernels find it: each sequence's tokens with their positions, which rows are whose, and its blocks.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { LAST_SAMPLED, type StepEntry } from '../../protocol/steps.ts';
import type { Arithmetic, Span, TokenSampler } from '../forward/arithmetic.ts';
import { writeSpan } from '../layouts/step-layout.ts';
import type { SlotBlocks } from './slot-blocks.ts';
import type { SlotTokens } from './slot-tokens.ts';
import type { WarmShape } from './warm-up.ts';

export class StepInputs {
  readonly #model: Arithmetic;
  readonly #words: Int32Array;
  readonly #held: SlotBlocks;
  readonly #sampler: TokenSampler;
  readonly #slotTokens: SlotTokens;

  constructor(model: Arithmetic, space: AddressSpace, held: SlotBlocks, sampler: TokenSampler, slotTokens: SlotTokens) {
    this.#model = model;
    this.#words = space.wordsOf(model.layout.base);
    this.#held = held;
    this.#sampler = sampler;
    this.#slotTokens = slotTokens;
  }

  /** Of an entry, its rows from `row` on; its span is the one with that index. */
  write(entry: StepEntry, index: number, row: number): Span {
    const { kv, blockTables } = this.#model.layout;
    const { slot, tokens, start, kept } = entry;
    if (entry.attach !== null) {
      this.#sampler.attach(slot, entry.attach, entry.output);
      this.#slotTokens.drafter?.attach(slot, entry.attach, entry.output);
    }
    let table = (offsetOf(blockTables.address) >>> 2) + slot * blockTables.blocks_max + entry.first_block;
    if (entry.blocks.length > 0) this.#held.hold(entry);
    this.#held.write(entry, kv.block_size);
    for (const block of entry.blocks) this.#words[table++] = offsetOf(this.#held.pool.addressOf(block));
    for (let at = 0; at < tokens.length; at++) {
      const token = tokens[at] as number;
      this.#writeRow(row + at, token === LAST_SAMPLED ? this.#slotTokens.lastOf(slot) : token, start + at);
    }
    return this.#writeSpan(index, kept === undefined ? { slot, row, rows: tokens.length } : { slot, row, rows: tokens.length, kept });
  }

  /** Of a step that nobody has asked for: any tokens, any blocks. */
  make({ from, tokens }: WarmShape): Span {
    const { kv, blockTables } = this.#model.layout;
    const table = offsetOf(blockTables.address) >>> 2;
    const blocks = Math.ceil((from + tokens) / kv.block_size);
    for (let block = 0; block < blocks; block++) this.#words[table + block] = offsetOf(kv.address) + block * kv.block_bytes;
    for (let row = 0; row < tokens; row++) this.#writeRow(row, row, from + row);
    return this.#writeSpan(0, { slot: 0, row: 0, rows: tokens });
  }

  #writeRow(row: number, token: number, position: number): void {
    const { tokenIds, positions } = this.#model.at;
    this.#words[(tokenIds >>> 2) + row] = token;
    this.#words[(positions >>> 2) + row] = position;
  }

  #writeSpan(index: number, span: Span): Span {
    const { address, blocks_max } = this.#model.layout.blockTables;
    writeSpan(this.#words, this.#model.at, index, span, offsetOf(address) + span.slot * blocks_max * 4);
    return span;
  }
}
