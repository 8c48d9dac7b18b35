/**
 * The trace file, byte for byte. docs/trace-format.md says the same at length.
 *
 * ```
 * ┌────────┬─────────┬─────────┬─ … ─┬─────────┬─────┐   a run that was killed leaves no end mark, and perhaps a torn last block
 * │ header │ block 0 │ block 1 │     │ block n │ end │
 * └────────┴─────────┴─────────┴─ … ─┴─────────┴─────┘
 *
 * header   0 magic (8)   8 version   12 bytes of JSON   16 checksum   20 JSON …
 * block    0 "MPTB"   4 number   8 first record (8)   16 records   20 raw bytes   24 stored bytes   28 compressor
 *         32 checksum of these   36 checksum of the payload   40 payload …
 * payload  (varint length, bytes) for each record, compressed if that makes it smaller
 * end      0 "MPTE"   4 bytes of the end   8 records (8)   16 blocks (8)   24 raw bytes (8)   32 SHA-256 (32)   64 stride   68 entries
 *         72 (offset (8), first record (8)) for each entry …   then the tail: 0 checksum   4 bytes of the end   8 magic (8)
 * ```
 * Fields are words of 4 bytes, little-endian, where nothing else is said. Checksums are CRC-32. Those of blocks and of the end begin with the header's,
 * so that a block of another run does not fit; a payload's begins with its header's, so that it fits nowhere else.
 * @module
 */
import { assert } from '../protocol/errors.ts';

/** The version written, and the only one read. The header's layout is the same in all versions, so that a reader can name one it does not know. */
export const FORMAT_VERSION = 1;

/** As PNG's: not text (high bit), and spoilt by whatever mends line ends. */
export const MAGIC: Uint8Array = Uint8Array.of(0x89, 0x4d, 0x50, 0x54, 0x0d, 0x0a, 0x1a, 0x0a);
/** The file's last bytes: "MPT-END\n". */
export const END_MAGIC: Uint8Array = Uint8Array.of(0x4d, 0x50, 0x54, 0x2d, 0x45, 0x4e, 0x44, 0x0a);
/** "MPTB" and "MPTE", little-endian. */
export const BLOCK_MARKER = 0x4254504d;
export const END_MARKER = 0x4554504d;

/** Byte offsets of the header's fields; the JSON follows. */
export const HEADER = Object.freeze({ magic: 0, version: 8, json_bytes: 12, checksum: 16, bytes: 20 });
/** Byte offsets of a block's fields; the payload follows. */
export const BLOCK = Object.freeze({
  marker: 0,
  number: 4,
  first_record: 8,
  records: 16,
  raw_bytes: 20,
  stored_bytes: 24,
  compressor: 28,
  checksum: 32,
  payload_checksum: 36,
  bytes: 40,
});
/** Byte offsets of the end's fields; the index follows, then the tail. */
export const END = Object.freeze({ marker: 0, end_bytes: 4, records: 8, blocks: 16, raw_bytes: 24, hash: 32, stride: 64, entries: 68, bytes: 72 });
export const INDEX_ENTRY = Object.freeze({ offset: 0, first_record: 8, bytes: 16 });
/** Byte offsets in the end's last bytes, by which it is found from behind. */
export const TAIL = Object.freeze({ checksum: 0, end_bytes: 4, magic: 8, bytes: 16 });

/** How a block's payload is stored. Each block by itself: a crash must not cost more than the last one. */
export const COMPRESSOR = Object.freeze({ none: 0, zstd: 1 });

export const HEADER_JSON_BYTES_MAX = 16 * 2 ** 20;
export const RECORD_BYTES_MAX = 64 * 2 ** 20;
/** Raw bytes after which a block is written: 16 to 256 KiB differ by under 2 % in ratio, and a crash loses one. */
export const BLOCK_BYTES_DEFAULT = 64 * 2 ** 10;
export const BLOCK_BYTES_MAX = 4 * 2 ** 20;
/** A block closes when it is full, and a record that does not fit begins the next: so it is one record's length at most where it exceeds the block's. */
export const RAW_BYTES_MAX = RECORD_BYTES_MAX + 4;
/** When the index is full, every other entry goes: it stays small however long the run, and the reader hops over a few headers. */
export const INDEX_ENTRIES_MAX = 4096;
export const END_BYTES_MAX = END.bytes + INDEX_ENTRIES_MAX * INDEX_ENTRY.bytes + TAIL.bytes;

assert(MAGIC.length === HEADER.version && HEADER.checksum + 4 === HEADER.bytes, "the header's fields lie side by side");
assert(BLOCK.payload_checksum + 4 === BLOCK.bytes && BLOCK.checksum === BLOCK.compressor + 4, "a block's checksum covers the fields before it");
assert(END.entries + 4 === END.bytes && TAIL.magic + END_MAGIC.length === TAIL.bytes, "the end's fields lie side by side");
assert(BLOCK_BYTES_MAX < RAW_BYTES_MAX && RECORD_BYTES_MAX < 2 ** 28, 'a length has four bytes of seven bits');

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Counts and offsets of 8 bytes; one that no number can hold reads as Infinity, which no check lets pass. */
export function readCount(view: DataView, at: number): number {
  const count = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  return Number.isSafeInteger(count) ? count : Number.POSITIVE_INFINITY;
}

export function writeCount(view: DataView, at: number, count: number): void {
  assert(Number.isSafeInteger(count) && count >= 0, `${count} is a count`);
  view.setUint32(at, count % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(count / 2 ** 32), true);
}
