/**
 * Records in a block's raw bytes: each its length (LEB128, one to four bytes), then itself. The identity of a trace is the hash of this.
 * @module
 */
import { RECORD_BYTES_MAX } from './file-layout.ts';

export const lengthBytes = (length: number): number => (length < 2 ** 7 ? 1 : length < 2 ** 14 ? 2 : length < 2 ** 21 ? 3 : 4);

/** Writes `length` at `at` and returns where the record begins. */
export function writeLength(bytes: Uint8Array, at: number, length: number): number {
  let rest = length;
  let to = at;
  while (rest >= 0x80) {
    bytes[to++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  bytes[to++] = rest;
  return to;
}

/** The length at `at`, or −1 where none is, or one beyond what a record may have. It has `lengthBytes(length)` bytes. */
export function readLength(bytes: Uint8Array, at: number): number {
  let length = 0;
  for (let i = 0; i < 4; i++) {
    const byte = bytes[at + i];
    if (byte === undefined) return -1;
    length |= (byte & 0x7f) << (7 * i);
    // One spelling for one length: a last byte of zero would be a longer spelling of a shorter one.
    if (byte < 0x80) return (i > 0 && byte === 0) || length > RECORD_BYTES_MAX ? -1 : length;
  }
  return -1;
}

/** Whether `raw` is `records` records and nothing else. */
export function holdsRecords(raw: Uint8Array, records: number): boolean {
  let at = 0;
  for (let i = 0; i < records; i++) {
    const length = readLength(raw, at);
    if (length < 0) return false;
    at += lengthBytes(length) + length;
    if (at > raw.length) return false;
  }
  return at === raw.length;
}
