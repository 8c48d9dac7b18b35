/**
 * Records of a trace as bytes: msgpack with the names of the fields in each, so that a trace explains itself to any version of minipod, and to other programs.
 * Repeated names cost next to nothing once a block is compressed.
 * @module
 */
import { crc32 } from 'node:zlib';
import { Packr } from 'msgpackr/pack';
import { assert } from '../protocol/errors.ts';
import { RecordWriter } from '../protocol/record-writer.ts';

const packr = new Packr({ useRecords: false, copyBuffers: true });
/**
 * A step's plan is in the command that sends it, in the message that it becomes and in what is launched; its outcomes go the same way back; a sequence is
 * handed on by each actor. On the thread of an NPU that is most of what records and checksums are made of.
 */
const COME_AGAIN = ['plan', 'outcomes', 'sequence', 'attach'];
const writer = new RecordWriter([], COME_AGAIN);

/** A record as bytes: the first `bytes` of `words`, there until the next one is packed. Whoever acts waits for this, so nothing is copied. */
export function packRecord(record: unknown): { readonly words: Int32Array; readonly bytes: number } {
  const bytes = writer.write(record);
  assert(bytes > 0, 'a record holds what is no value of msgpack');
  return { words: writer.words, bytes };
}

export function encodeRecord(record: unknown): Uint8Array {
  const { words, bytes } = packRecord(record);
  return new Uint8Array(words.buffer, 0, bytes).slice();
}

/** CRC-32 of the record's bytes. */
export function checksumOf(record: unknown): number {
  const { words, bytes } = packRecord(record);
  return crc32(new Uint8Array(words.buffer, 0, bytes));
}

export const decodeRecord = (bytes: Uint8Array): unknown => packr.unpack(bytes);
