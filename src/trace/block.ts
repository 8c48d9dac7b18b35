/**
 * One block of records: compressed by itself, numbered, and checked. See file-layout.ts.
 *
 * Zstandard, because both runtimes have it and it is the fastest of those that reach its ratio (measured: docs/trace-format.md).
 * No preset dictionary: Deno 2.9 takes node:zlib's option and ignores it in silence.
 * @module
 */
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { BLOCK, BLOCK_BYTES_MAX, BLOCK_MARKER, COMPRESSOR, RAW_BYTES_MAX, readCount, viewOf, writeCount } from './file-layout.ts';
import { holdsRecords } from './record-framing.ts';

const ZSTD_OPTIONS = Object.freeze({ params: { [constants.ZSTD_c_compressionLevel]: 3 } });

export type BlockHeader = {
  readonly number: number;
  readonly first_record: number;
  readonly records: number;
  readonly raw_bytes: number;
  readonly stored_bytes: number;
  readonly compressor: number;
  /** Of the fields above; the payload's checksum begins with it. */
  readonly checksum: number;
  readonly payload_checksum: number;
};

/** Header and payload of block `number`. */
export function packBlock(raw: Uint8Array, number: number, firstRecord: number, records: number, seed: number): [header: Uint8Array, payload: Uint8Array] {
  const compressed = zstdCompressSync(raw, ZSTD_OPTIONS);
  const [compressor, payload] = compressed.length < raw.length ? [COMPRESSOR.zstd, compressed] : [COMPRESSOR.none, raw];
  const header = new Uint8Array(BLOCK.bytes);
  const view = viewOf(header);
  view.setUint32(BLOCK.marker, BLOCK_MARKER, true);
  view.setUint32(BLOCK.number, number, true);
  writeCount(view, BLOCK.first_record, firstRecord);
  view.setUint32(BLOCK.records, records, true);
  view.setUint32(BLOCK.raw_bytes, raw.length, true);
  view.setUint32(BLOCK.stored_bytes, payload.length, true);
  view.setUint32(BLOCK.compressor, compressor, true);
  const checksum = crc32(header.subarray(0, BLOCK.checksum), seed);
  view.setUint32(BLOCK.checksum, checksum, true);
  view.setUint32(BLOCK.payload_checksum, crc32(payload, checksum), true);
  return [header, payload];
}

/** The header in `bytes`, or why there is none. Its lengths are within what a writer of this version makes. */
export function readBlockHeader(bytes: Uint8Array, seed: number): BlockHeader | string {
  const view = viewOf(bytes);
  const checksum = view.getUint32(BLOCK.checksum, true);
  if (crc32(bytes.subarray(0, BLOCK.checksum), seed) !== checksum) return 'the checksum of its header does not match';
  const header: BlockHeader = {
    number: view.getUint32(BLOCK.number, true),
    first_record: readCount(view, BLOCK.first_record),
    records: view.getUint32(BLOCK.records, true),
    raw_bytes: view.getUint32(BLOCK.raw_bytes, true),
    stored_bytes: view.getUint32(BLOCK.stored_bytes, true),
    compressor: view.getUint32(BLOCK.compressor, true),
    checksum,
    payload_checksum: view.getUint32(BLOCK.payload_checksum, true),
  };
  const { first_record, records, raw_bytes, stored_bytes, compressor } = header;
  const possible = Number.isFinite(first_record) && records >= 1 && records <= raw_bytes && raw_bytes <= RAW_BYTES_MAX && stored_bytes >= 1;
  if (!possible || stored_bytes > raw_bytes || (compressor === COMPRESSOR.none && stored_bytes !== raw_bytes)) return 'its header says what cannot be';
  if (compressor !== COMPRESSOR.none && compressor !== COMPRESSOR.zstd) return `its compressor ${compressor} is not known`;
  return header;
}

/** The raw bytes of a block, or why they cannot be had. Never more memory than the header allows. */
export function unpackBlock(header: BlockHeader, payload: Uint8Array): Uint8Array | string {
  if (crc32(payload, header.checksum) !== header.payload_checksum) return 'its checksum does not match';
  const raw = header.compressor === COMPRESSOR.zstd ? decompressed(payload, header.raw_bytes) : payload;
  // Deno's decompressor takes some broken input without an error, so its length and its frames are looked at whatever it says.
  if (raw === null || raw.length !== header.raw_bytes) return 'it does not decompress to the length that its header says';
  return holdsRecords(raw, header.records) ? raw : `it does not hold ${header.records} records`;
}

function decompressed(payload: Uint8Array, bytes: number): Uint8Array | null {
  try {
    // In one piece instead of several to be joined: a third faster. Node wants 64 at least; beyond a usual block the length is only a claim.
    return zstdDecompressSync(payload, { maxOutputLength: bytes, chunkSize: Math.min(Math.max(bytes, 64), BLOCK_BYTES_MAX) });
  } catch {
    return null;
  }
}
