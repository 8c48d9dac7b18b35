/**
 * How tokens and answers lie in the areas that peers pull from (xDeepServe §3.2, step 3): one part for each destination rank, behind a directory, so that
 * a part can be pulled alone, or all of them at once (trampoline.ts).
 *
 *   package    | directory | part of destination 0 | part of destination 1 | …       dispatch area of the rank that has the tokens
 *   directory  | offset | rows | pairs | format |  × destinations                    32-bit words; offsets from the package's start
 *   part       | note | sum | id of each pair | row of each pair | block of rows |    pairs by (place, token), rows by token (token-routing.ts)
 *              the sum is of all of the part but itself, where rows are looked at (row-sums.ts)
 *
 *   bundle     | directory | block of expert rank 0 | block of expert rank 1 | …     the way back: a row for each pair, in the pairs' order
 *              a rank that refuses leaves no block, and says so in place of the format; in place of rows the directory has the block's sum, or why it is refused
 *
 * @module
 */
import { offsetOf, roundUp } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { BLOCK_ALIGNMENT, blockBytes, WIRE_FORMATS, type WireFormat } from './wire-format.ts';

const ENTRY_WORD = { offset: 0, rows: 1, pairs: 2, format: 3 } as const;
const ENTRY_WORDS = Object.keys(ENTRY_WORD).length;

export const directoryBytes = (entries: number): number => entries * ENTRY_WORDS * 4;
/** Before a part's pairs: a word that its sender says to all, and its sum. */
export const NOTE_BYTES = 8;
/** Of a part, behind its note and its sum. */
export const summedBytes = (format: WireFormat, rows: number, pairs: number, hidden: number): number => 8 * pairs + blockBytes(format, rows, hidden);
/** One without pairs and rows is nothing at all. */
export const partBytes = (format: WireFormat, rows: number, pairs: number, hidden: number): number =>
  pairs === 0 && rows === 0 ? 0 : roundUp(NOTE_BYTES + summedBytes(format, rows, pairs, hidden), BLOCK_ALIGNMENT);

// ---------------------------------------------------------------- what an area must hold for any choice of the gates

/** Bytes of a dispatch area for `tokens` tokens of a rank. */
export function packageBytesMax(format: WireFormat, tokens: number, top_k: number, destinations: number, hidden: number): number {
  // A part is padded twice at most: its block, and itself.
  const padded = 2 * BLOCK_ALIGNMENT + NOTE_BYTES;
  return directoryBytes(destinations) + partBytes(format, tokens * Math.min(top_k, destinations), tokens * top_k, hidden) + padded * destinations;
}

/** Bytes of a reply area for so many pairs, from so many sources. */
export const repliesBytesMax = (format: WireFormat, pairs: number, sources: number, hidden: number): number =>
  blockBytes(format, pairs, hidden) + BLOCK_ALIGNMENT * sources;

/** What a trampoline's reply area holds beside its own replies: the answers to the `pairs` of its attention rank. */
export const bundleBytesMax = (format: WireFormat, pairs: number, experts: number, hidden: number): number =>
  BLOCK_ALIGNMENT + directoryBytes(experts) + repliesBytesMax(format, pairs, experts, hidden);

/** Some of an area's bytes, from its start: what one collective may use. */
export type Extent = { readonly offset: number; readonly bytes: number };

/** What a rank is told about the parts that others left for it, by source. */
export class PartList {
  /** The ranks in whose areas the parts lie. */
  readonly holders: readonly number[];
  /** From the start of the holder's area. */
  readonly offsets: Float64Array;
  /** Of an answer: its sum. */
  readonly rows: Uint32Array;
  readonly pairs: Uint32Array;
  readonly formats: Uint32Array;

  constructor(holders: readonly number[]) {
    this.holders = holders;
    this.offsets = new Float64Array(holders.length);
    this.rows = new Uint32Array(holders.length);
    this.pairs = new Uint32Array(holders.length);
    this.formats = new Uint32Array(holders.length);
  }

  set(index: number, offset: number, rows: number, pairs: number, format: number): void {
    this.offsets[index] = offset;
    this.rows[index] = rows;
    this.pairs[index] = pairs;
    this.formats[index] = format;
  }

  /** Takes entries from a directory at `address`, whose offsets count from `base`. */
  read(space: AddressSpace, address: number, base: number): void {
    const words = space.wordsOf(address);
    for (let index = 0, at = offsetOf(address) / 4; index < this.holders.length; index++, at += ENTRY_WORDS) {
      this.set(
        index,
        ((words[at + ENTRY_WORD.offset] as number) >>> 0) + base,
        words[at + ENTRY_WORD.rows] as number,
        words[at + ENTRY_WORD.pairs] as number,
        words[at + ENTRY_WORD.format] as number,
      );
    }
  }
}

export function writeEntry(space: AddressSpace, directory: number, index: number, offset: number, rows: number, pairs: number, format: number): void {
  const words = space.wordsOf(directory);
  const at = offsetOf(directory) / 4 + index * ENTRY_WORDS;
  words[at + ENTRY_WORD.offset] = offset;
  words[at + ENTRY_WORD.rows] = rows;
  words[at + ENTRY_WORD.pairs] = pairs;
  words[at + ENTRY_WORD.format] = format;
}

/** @throws `memory_fault` naming the peer, unless the bytes lie in its area, at a word's start. */
export function checkRange(peer: string, area: string, offset: number, bytes: number, area_bytes: number): void {
  if (offset % 4 === 0 && offset + bytes <= area_bytes) return;
  throw new MinipodError('memory_fault', `${peer} says that ${bytes} bytes lie at offset ${offset} of its ${area} area, which has ${area_bytes}`);
}

/** In place of a format: nothing of what was asked for was computed. */
export const REFUSED = 3;
assert(WIRE_FORMATS.length <= REFUSED, 'the code of a refusal is no format');

/** Of an answer of so many rows, in the format of the code. */
export const answerBytes = (peer: string, code: number, pairs: number, hidden: number): number =>
  code === REFUSED ? 0 : blockBytes(formatOfCode(peer, code), pairs, hidden);

export function formatOfCode(peer: string, code: number): WireFormat {
  const format = WIRE_FORMATS[code];
  if (format === undefined) throw new MinipodError('memory_fault', `${peer} sent rows of format ${code}: ${WIRE_FORMATS.join(', ')} are known`);
  return format;
}

/** @throws `out_of_memory` with the bytes needed and granted. */
export function checkRoom(what: string, needed: number, granted: number, where: string): void {
  if (needed > granted) throw new MinipodError('out_of_memory', `${what} needs ${needed} bytes of ${where}, ${granted} are granted`);
}
