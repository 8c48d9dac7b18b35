/**
 * What a trace is, whatever its blocks and its compressor: SHA-256 of its header and its records, each with its length.
 * @module
 */
import { createHash } from 'node:crypto';
import { lengthBytes, writeLength } from './record-framing.ts';

export type TraceIdentity = {
  /** SHA-256 of the canonical stream, 64 hexadecimal digits. Equal exactly if header and records are. */
  readonly hash: string;
  readonly records: number;
  /** Length of the canonical stream. */
  readonly raw_bytes: number;
  readonly file_bytes: number;
};

/** The canonical stream, hashed as it passes. */
export class CanonicalStream {
  bytes = 0;
  readonly #hash = createHash('sha256');

  constructor(headerJson: Uint8Array) {
    const length = new Uint8Array(lengthBytes(headerJson.length));
    writeLength(length, 0, headerJson.length);
    this.add(length);
    this.add(headerJson);
  }

  /** The raw bytes of a block, or any part of them, in order. */
  add(raw: Uint8Array): void {
    this.#hash.update(raw);
    this.bytes += raw.length;
  }

  /** Hexadecimal; nothing may be added afterwards. */
  digest(): string {
    return this.#hash.digest('hex');
  }
}
