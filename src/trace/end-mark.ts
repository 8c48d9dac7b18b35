/**
 * The end of a trace that was closed: totals, identity, and an index by which record N is found without reading what is before it.
 * @module
 */
import { crc32 } from 'node:zlib';
import { assert } from '../protocol/errors.ts';
import { END, END_BYTES_MAX, END_MAGIC, END_MARKER, INDEX_ENTRIES_MAX, INDEX_ENTRY, readCount, TAIL, viewOf, writeCount } from './file-layout.ts';

/** Where block `number` lies in the file. */
export type BlockPlace = { readonly number: number; readonly offset: number; readonly first_record: number };

/** Every `stride`-th block; half of the entries go when they are too many. */
export class BlockIndex {
  stride = 1;
  places: BlockPlace[] = [];

  add(place: BlockPlace): void {
    if (place.number % this.stride !== 0) return;
    if (this.places.length === INDEX_ENTRIES_MAX) {
      this.stride *= 2;
      this.places = this.places.filter(({ number }) => number % this.stride === 0);
      if (place.number % this.stride !== 0) return;
    }
    this.places.push(place);
  }
}

export type EndMark = {
  readonly records: number;
  readonly blocks: number;
  /** Of the canonical stream, the header's included. */
  readonly raw_bytes: number;
  /** SHA-256 of the canonical stream, hexadecimal. */
  readonly hash: string;
  readonly places: readonly BlockPlace[];
};

export function packEnd(totals: Omit<EndMark, 'places'>, index: BlockIndex, seed: number): Uint8Array {
  const { places, stride } = index;
  const bytes = new Uint8Array(END.bytes + places.length * INDEX_ENTRY.bytes + TAIL.bytes);
  const view = viewOf(bytes);
  view.setUint32(END.marker, END_MARKER, true);
  view.setUint32(END.end_bytes, bytes.length, true);
  writeCount(view, END.records, totals.records);
  writeCount(view, END.blocks, totals.blocks);
  writeCount(view, END.raw_bytes, totals.raw_bytes);
  bytes.set(Buffer.from(totals.hash, 'hex'), END.hash);
  view.setUint32(END.stride, stride, true);
  view.setUint32(END.entries, places.length, true);
  for (const [i, place] of places.entries()) {
    assert(place.number === i * stride, 'the index holds every stride-th block');
    writeCount(view, END.bytes + i * INDEX_ENTRY.bytes + INDEX_ENTRY.offset, place.offset);
    writeCount(view, END.bytes + i * INDEX_ENTRY.bytes + INDEX_ENTRY.first_record, place.first_record);
  }
  const tail = bytes.length - TAIL.bytes;
  view.setUint32(tail + TAIL.checksum, crc32(bytes.subarray(0, tail), seed), true);
  view.setUint32(tail + TAIL.end_bytes, bytes.length, true);
  bytes.set(END_MAGIC, tail + TAIL.magic);
  return bytes;
}

/** Length of the end that the file's last bytes speak of, or 0 where they are no end's. */
export function endBytes(tail: Uint8Array): number {
  if (tail.length < TAIL.bytes || !END_MAGIC.every((byte, i) => byte === tail[TAIL.magic + i])) return 0;
  const length = viewOf(tail).getUint32(TAIL.end_bytes, true);
  return isLengthOfEnd(length) ? length : 0;
}

export const isLengthOfEnd = (length: number): boolean =>
  length >= END.bytes + TAIL.bytes && length <= END_BYTES_MAX && (length - END.bytes - TAIL.bytes) % INDEX_ENTRY.bytes === 0;

/** The end that is `bytes` whole, or why it is none. */
export function readEnd(bytes: Uint8Array, seed: number): EndMark | string {
  if (!isLengthOfEnd(bytes.length)) return 'its length is none that an end mark has';
  const tail = bytes.length - TAIL.bytes;
  const view = viewOf(bytes);
  if (endBytes(bytes.subarray(tail)) !== bytes.length) return 'its last bytes are not those of an end mark';
  if (view.getUint32(tail + TAIL.checksum, true) !== crc32(bytes.subarray(0, tail), seed)) return 'its checksum does not match';
  const entries = view.getUint32(END.entries, true);
  if (END.bytes + entries * INDEX_ENTRY.bytes !== tail) return `its length does not fit its ${entries} entries`;
  const stride = view.getUint32(END.stride, true);
  const places = Array.from({ length: entries }, (_, i) => {
    const at = END.bytes + i * INDEX_ENTRY.bytes;
    return { number: i * stride, offset: readCount(view, at + INDEX_ENTRY.offset), first_record: readCount(view, at + INDEX_ENTRY.first_record) };
  });
  return {
    records: readCount(view, END.records),
    blocks: readCount(view, END.blocks),
    raw_bytes: readCount(view, END.raw_bytes),
    hash: Buffer.from(bytes.subarray(END.hash, END.stride)).toString('hex'),
    places,
  };
}
