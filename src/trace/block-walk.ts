/**
 * What lies at a place of a trace file: the block that must be there, the end, or damage.
 * @module
 */
import { type BlockHeader, readBlockHeader, unpackBlock } from './block.ts';
import { grouped, type TraceDamage } from './damage.ts';
import { type EndMark, endBytes, isLengthOfEnd, readEnd } from './end-mark.ts';
import { BLOCK, BLOCK_MARKER, END, END_MARKER, TAIL, viewOf } from './file-layout.ts';
import type { InputFile } from './input-file.ts';

/** Where the next block begins, and what it must say of itself: its number and its first record's. */
export type Expected = { readonly offset: number; readonly number: number; readonly record: number };

export type Found =
  | { readonly kind: 'block'; readonly header: BlockHeader; readonly offset: number }
  | { readonly kind: 'end'; readonly end: EndMark; readonly offset: number }
  | Damaged;
/** `resume`: where a reader that passes over damage goes on, if that is known without a search. */
export type Damaged = { readonly kind: 'damage'; readonly damage: TraceDamage; readonly resume: Expected | null };

/** The place behind a block. */
export const following = (header: BlockHeader, offset: number): Expected => ({
  offset: offset + BLOCK.bytes + header.stored_bytes,
  number: header.number + 1,
  record: header.first_record + header.records,
});

const damaged = (at: Expected, message: string, resume: Expected | null = null): Damaged => ({
  kind: 'damage',
  damage: { kind: 'damaged', message, byte: at.offset, block: at.number, record: at.record, bytes_lost: null, records_lost: null },
  resume,
});

const placeOf = ({ number, offset }: Expected): string => `block ${grouped(number)} at byte ${grouped(offset)}`;

/** "MPT", with which blocks and the end begin. */
const MARKER_START = Uint8Array.of(0x4d, 0x50, 0x54);
const SEARCH_BYTES = 64 * 2 ** 10;

export class BlockWalk {
  /** What the file's last bytes say, if they are an end mark: totals and index, before anything is read. */
  readonly end: EndMark | null;
  readonly #file: InputFile;
  readonly #seed: number;
  /** Whether the last bytes are those of an end mark: then nothing was cut off, and what is missing is missing inside. */
  readonly #hasTail: boolean;

  /** @param seed the checksum of the file's header */
  constructor(file: InputFile, seed: number) {
    this.#file = file;
    this.#seed = seed;
    const length = endBytes(file.read(Math.max(0, file.size - TAIL.bytes), TAIL.bytes));
    this.#hasTail = length > 0;
    const end = this.#hasTail && length <= file.size ? readEnd(file.read(file.size - length, length), seed) : null;
    this.end = typeof end === 'string' ? null : end;
  }

  /** What is at the expected place. */
  look(expected: Expected): Found {
    const { offset, number, record } = expected;
    const bytes = this.#file.read(offset, BLOCK.bytes);
    if (bytes.length === 0) return this.#cutOff(expected, 'the trace ends without its end mark');
    const marker = bytes.length < 4 ? null : viewOf(bytes).getUint32(BLOCK.marker, true);
    if (marker === END_MARKER) return this.#lookAtEnd(expected);
    if (marker !== null && marker !== BLOCK_MARKER) return damaged(expected, `${placeOf(expected)}: no block begins there, and no end mark`);
    if (bytes.length < BLOCK.bytes) return this.#cutOff(expected, `the trace ends inside ${placeOf(expected)}`);
    const header = readBlockHeader(bytes, this.#seed);
    if (typeof header === 'string') return damaged(expected, `${placeOf(expected)}: ${header}`);
    if (header.number !== number || header.first_record !== record) return outOfOrder(expected, header);
    const missing = following(header, offset).offset - this.#file.size;
    if (missing > 0) return this.#cutOff(expected, `the trace ends inside ${placeOf(expected)}, ${grouped(missing)} bytes before that block does`);
    return { kind: 'block', header, offset };
  }

  /** The payload of a block that `look` found, decompressed, or what is wrong with it. */
  open(header: BlockHeader, offset: number): Uint8Array | Damaged {
    const raw = unpackBlock(header, this.#file.read(offset + BLOCK.bytes, header.stored_bytes));
    if (typeof raw !== 'string') return raw;
    const at = { offset, number: header.number, record: header.first_record };
    return damaged(at, `${placeOf(at)}: ${raw}`, following(header, offset));
  }

  #lookAtEnd(expected: Expected): Found {
    const { offset, number, record } = expected;
    const place = `the end mark at byte ${grouped(offset)}`;
    const rest = this.#file.size - offset;
    const length = rest < END.bytes ? rest : viewOf(this.#file.read(offset, END.bytes)).getUint32(END.end_bytes, true);
    if (rest < END.bytes || (isLengthOfEnd(length) && rest < length)) return this.#cutOff(expected, `the trace ends inside ${place}`);
    const end = isLengthOfEnd(length) ? readEnd(this.#file.read(offset, length), this.#seed) : 'its length is none that an end mark has';
    if (typeof end === 'string') return damaged(expected, `${place}: ${end}`);
    if (end.blocks !== number || end.records !== record) {
      const counts = `it counts ${grouped(end.blocks)} blocks with ${grouped(end.records)} records`;
      const resume = end.blocks >= number && end.records >= record ? { offset, number: end.blocks, record: end.records } : null;
      return damaged(expected, `${place}: ${counts}, but ${grouped(number)} blocks with ${grouped(record)} are before it`, resume);
    }
    if (rest > length) return damaged(expected, `${place}: ${grouped(rest - length)} bytes follow it, where the file must end`);
    return { kind: 'end', end, offset };
  }

  /** The file ends here, and must not: its writer was stopped, or, if it has its end mark, something before that was taken out. */
  #cutOff(at: Expected, what: string): Damaged {
    if (this.#hasTail) return damaged(at, `${placeOf(at)}: bytes are missing: the file's end comes too early for it`);
    const message = `${what}: the run was killed, or still runs`;
    return {
      kind: 'damage',
      damage: { kind: 'unfinished', message, byte: at.offset, block: at.number, record: at.record, bytes_lost: null, records_lost: null },
      resume: null,
    };
  }

  /**
   * The next place behind `expected` where a block begins that is not older than the one expected, or the end; null if there is none.
   * Reads the rest of the file once, in windows.
   */
  search(expected: Expected): Expected | null {
    for (let offset = expected.offset + 1; offset < this.#file.size; offset += SEARCH_BYTES) {
      // A window overlaps the next by a header, so that none is cut in two.
      const bytes = this.#file.read(offset, SEARCH_BYTES + BLOCK.bytes - 1);
      const window = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let at = window.indexOf(MARKER_START); at >= 0 && at < SEARCH_BYTES; at = window.indexOf(MARKER_START, at + 1)) {
        const candidate = this.#candidate(window.subarray(at), offset + at);
        if (candidate && candidate.number >= expected.number && candidate.record >= expected.record) return candidate;
      }
    }
    return null;
  }

  /** What the block or the end that `bytes` begin with says of itself. */
  #candidate(bytes: Uint8Array, offset: number): Expected | null {
    const marker = bytes.length < 4 ? 0 : viewOf(bytes).getUint32(BLOCK.marker, true);
    if (marker === BLOCK_MARKER && bytes.length >= BLOCK.bytes) {
      const header = readBlockHeader(bytes.subarray(0, BLOCK.bytes), this.#seed);
      return typeof header === 'string' ? null : { offset, number: header.number, record: header.first_record };
    }
    // An end that does not end the file is none, so that a file full of its marker is not read again and again.
    const length = this.#file.size - offset;
    if (marker !== END_MARKER || bytes.length < END.records || viewOf(bytes).getUint32(END.end_bytes, true) !== length || !isLengthOfEnd(length)) return null;
    const end = readEnd(this.#file.read(offset, length), this.#seed);
    return typeof end === 'string' ? null : { offset, number: end.blocks, record: end.records };
  }
}

function outOfOrder(expected: Expected, header: BlockHeader): Damaged {
  const { offset, number, record } = expected;
  const { first_record } = header;
  const resume = header.number >= number && first_record >= record ? { offset, number: header.number, record: first_record } : null;
  const why = header.number > number ? 'a block is missing or was moved' : 'it was repeated or moved';
  const order = number === 0 ? 'comes first' : `follows ${grouped(number - 1)}`;
  const message =
    header.number === number
      ? `${placeOf(expected)}: its first record is ${grouped(first_record)}, and must be ${grouped(record)}`
      : `block ${grouped(header.number)} ${order} at byte ${grouped(offset)}: ${why}`;
  return damaged(expected, message, resume ?? { ...expected, offset: following(header, offset).offset });
}
