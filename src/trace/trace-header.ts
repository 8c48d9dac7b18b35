/**
 * The head of a trace file: what it is, which version, and an object by whoever records.
 * @module
 */
import { crc32 } from 'node:zlib';
import { MinipodError } from '../protocol/errors.ts';
import { canonicalJson } from './canonical-json.ts';
import { grouped } from './damage.ts';
import { FORMAT_VERSION, HEADER, HEADER_JSON_BYTES_MAX, MAGIC, viewOf } from './file-layout.ts';
import type { InputFile } from './input-file.ts';

/** `json` as bytes opens the canonical stream; `checksum` seeds the checksums of all that follows in the file. */
export type PackedHeader = { readonly bytes: Uint8Array; readonly json: Uint8Array; readonly checksum: number };
export type ReadHeader = {
  readonly value: Readonly<Record<string, unknown>>;
  readonly json: Uint8Array;
  readonly checksum: number;
  readonly version: number;
  readonly bytes: number;
};

/** @throws `invalid_request` when JSON cannot carry the header, or it is too long. */
export function packHeader(header: object): PackedHeader {
  const json = new TextEncoder().encode(canonicalJson(header));
  if (json.length > HEADER_JSON_BYTES_MAX)
    throw new MinipodError('invalid_request', `the trace's header has ${grouped(json.length)} bytes; ${grouped(HEADER_JSON_BYTES_MAX)} are allowed`, {
      param: 'header',
    });
  const bytes = new Uint8Array(HEADER.bytes + json.length);
  const view = viewOf(bytes);
  bytes.set(MAGIC, HEADER.magic);
  view.setUint32(HEADER.version, FORMAT_VERSION, true);
  view.setUint32(HEADER.json_bytes, json.length, true);
  bytes.set(json, HEADER.bytes);
  const checksum = headerChecksum(bytes);
  view.setUint32(HEADER.checksum, checksum, true);
  return { bytes, json, checksum };
}

const headerChecksum = (bytes: Uint8Array): number => crc32(bytes.subarray(HEADER.bytes), crc32(bytes.subarray(0, HEADER.checksum)));

/** @throws `invalid_trace` when the file is none, its header is damaged, or its version is not known. */
export function readHeader(file: InputFile): ReadHeader {
  const fixed = file.read(0, HEADER.bytes);
  if (fixed.length === 0) throw file.invalid('is empty; a trace has at least a header. The run that wrote it was killed at once, or has just begun');
  const magic = fixed.subarray(0, MAGIC.length);
  if (!magic.every((byte, i) => byte === MAGIC[i])) throw file.invalid(`is not a trace: it begins with ${hex(magic)}, a trace with ${hex(MAGIC)}`);
  if (fixed.length < HEADER.bytes) throw file.invalid(`ends inside its header, at byte ${grouped(file.size)}`);
  const view = viewOf(fixed);
  const version = view.getUint32(HEADER.version, true);
  const length = view.getUint32(HEADER.json_bytes, true);
  const known = version === FORMAT_VERSION;
  const unknown = `names trace format ${version}, and this minipod reads format ${FORMAT_VERSION}`;
  if (length > HEADER_JSON_BYTES_MAX || HEADER.bytes + length > file.size) {
    const claim = `its header would have ${grouped(length)} bytes, and the file has ${grouped(file.size)}`;
    throw file.invalid(known ? `is damaged or cut off: ${claim}` : `${unknown}; or it is damaged: ${claim}`);
  }
  const bytes = file.read(0, HEADER.bytes + length);
  const checksum = view.getUint32(HEADER.checksum, true);
  if (headerChecksum(bytes) !== checksum)
    throw file.invalid(`${known ? 'is' : `${unknown}; or it is`} damaged: the checksum of its header does not match (bytes 0 to ${grouped(bytes.length)})`);
  if (!known) throw file.invalid(`${unknown}: read it with the minipod that wrote it, or a newer one`);
  const json = bytes.subarray(HEADER.bytes);
  return { value: parsed(file, json), json, checksum, version, bytes: bytes.length };
}

function parsed(file: InputFile, json: Uint8Array): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (error) {
    throw file.invalid('has a header that is not JSON', error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw file.invalid('has a header that is not an object');
  return value as Record<string, unknown>;
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
