/**
 * Records of a trace as bytes: msgpack with the names of the fields in each, so that a trace explains itself to any version of minipod, and to other programs.
 * Repeated names cost next to nothing once a block is compressed.
 * @module
 */
import { Packr } from 'msgpackr';

const packr = new Packr({ useRecords: false, copyBuffers: true });

export const encodeRecord = (record: unknown): Uint8Array => packr.pack(record);

export const decodeRecord = (bytes: Uint8Array): unknown => packr.unpack(bytes);
