/**
 * Sums of rows on their way: whoever leaves rows for others sums them where they lie, and whoever has taken them looks whether they are still those, before anything that
 * came of them is believed. A bit that flipped meanwhile, in memory that nobody else may write, is found so, on either way (exchange.ts):
 *
 *   dispatch   the asker's rows        sum beside them          looked at by an expert NPU when it has computed its part, before it answers
 *   combine    the answer's rows       sum in the field         looked at by the asker when it has pulled them, before it goes on
 *
 * Where an asker's sums lie: the end of its dispatch area, by lane, written before the first of its peers is asked. Rows in INT8 are two blocks: scales, and values.
 *
 *   | first block: offset | bytes | second block: offset | bytes | sum | – – – |
 *
 * Tables that say which row goes to which expert have no sums: what they say is checked to be possible.
 *
 * Rounds of domains have theirs where the rows are: of each part in a word before its pairs, which are summed with it (parts.ts), of each answer in its field
 * (arrivals.ts). So they pass trampolines as they are. What is not what it was is refused, and asked for once more in the next iteration.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { invariantBroken } from '../protocol/errors.ts';
import type { Endpoint } from './endpoint.ts';

/** Of bytes from an address on, behind what was summed before. */
export type SumBytes = (seed: number, address: number, bytes: number) => number;
export type Block = { readonly address: number; readonly bytes: number };
/** How rounds look at rows that travel; `found` is told where they are not what they were. */
export type RowChecks = { readonly sum: SumBytes; readonly found: () => void };

const LANE_BYTES = 32;
const WORD = { offset: 0, bytes: 1, sum: 4 } as const;
const BLOCKS = 2;
/** Of a dispatch area: for two lanes. */
export const ROW_SUMS_BYTES = 2 * LANE_BYTES;

export class RowSums {
  readonly #endpoint: Endpoint;
  readonly #sum: SumBytes;
  readonly #words: Int32Array;

  constructor(endpoint: Endpoint, sum: SumBytes) {
    this.#endpoint = endpoint;
    this.#sum = sum;
    this.#words = endpoint.space.wordsOf(endpoint.areas.dispatch);
  }

  /** Rows in this die's dispatch area that peers are about to be asked with. */
  leave(lane: number, blocks: readonly Block[]): void {
    const { dispatch, dispatch_bytes } = this.#endpoint.areas;
    if (blocks.length > BLOCKS || lane * LANE_BYTES >= ROW_SUMS_BYTES) invariantBroken(`${blocks.length} blocks of rows on lane ${lane}`);
    const at = placeOf(dispatch, dispatch_bytes, lane);
    let sum = 0;
    for (let index = 0; index < BLOCKS; index++) {
      const block = blocks[index];
      this.#words[at + 2 * index + WORD.offset] = block === undefined ? 0 : block.address - dispatch;
      this.#words[at + 2 * index + WORD.bytes] = block?.bytes ?? 0;
      if (block !== undefined) sum = this.#sum(sum, block.address, block.bytes);
    }
    this.#words[at + WORD.sum] = sum;
    const { watch } = this.#endpoint.surroundings;
    if (watch?.isOn) watch.left(this.#endpoint.die, blocks);
  }

  /** What a peer has left are the rows that it summed, as far as it does not write them anew just now. */
  areWhole(source: number, lane: number): boolean {
    const { dispatch, dispatch_bytes } = this.#endpoint.surroundings.areasOf(source);
    const words = this.#endpoint.space.wordsOf(dispatch);
    const at = placeOf(dispatch, dispatch_bytes, lane);
    let sum = 0;
    for (let index = 0; index < BLOCKS; index++) {
      const offset = (words[at + 2 * index + WORD.offset] as number) >>> 0;
      const bytes = (words[at + 2 * index + WORD.bytes] as number) >>> 0;
      if (offset % 4 !== 0 || bytes % 4 !== 0 || offset + bytes > dispatch_bytes) return false;
      if (bytes > 0) sum = this.#sum(sum, dispatch + offset, bytes);
    }
    return sum === words[at + WORD.sum];
  }

  of(address: number, bytes: number): number {
    return this.#sum(0, address, bytes);
  }
}

/** Index of a lane's words. */
const placeOf = (dispatch: number, dispatch_bytes: number, lane: number): number =>
  offsetOf(dispatch + dispatch_bytes - ROW_SUMS_BYTES + lane * LANE_BYTES) / 4;
