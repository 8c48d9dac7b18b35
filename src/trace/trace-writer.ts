/**
 * Writes a trace file: records in, compressed and checked blocks out. It waits for the disk, so it lives on a thread of its own.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { packBlock } from './block.ts';
import { grouped } from './damage.ts';
import { BlockIndex, packEnd } from './end-mark.ts';
import { BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MAX, RECORD_BYTES_MAX } from './file-layout.ts';
import { CanonicalStream, type TraceIdentity } from './identity.ts';
import { OutputFile, type TraceDisk } from './output-file.ts';
import { lengthBytes, writeLength } from './record-framing.ts';
import { type PackedHeader, packHeader } from './trace-header.ts';

export type TraceWriterOptions = {
  /** Raw bytes after which a block is written, 1 to 4 MiB; 64 KiB unless told. The identity does not depend on it. */
  readonly block_bytes?: number;
  /** Whether a file that exists is replaced; otherwise it is an error. */
  readonly overwrite?: boolean;
  /** In place of the machine's. */
  readonly write?: TraceDisk['write'] | undefined;
};

/**
 * Memory: one block, or the one record that is larger than it.
 * @example
 * using writer = TraceWriter.create('run.trace', { model: 'tiny', clock: 'virtual' });
 * writer.append(record);
 * writer.flush(); // now a crash loses nothing
 * const { hash } = writer.close();
 */
export class TraceWriter implements Disposable {
  readonly path: string;
  readonly #file: OutputFile;
  readonly #seed: number;
  readonly #block_bytes: number;
  readonly #stream: CanonicalStream;
  readonly #index = new BlockIndex();
  #raw: Uint8Array;
  #used = 0;
  #blocks = 0;
  /** Records in blocks that are written, and in the one that is not. */
  #written = 0;
  #pending = 0;

  private constructor(file: OutputFile, header: PackedHeader, blockBytes: number) {
    this.path = file.path;
    this.#file = file;
    this.#seed = header.checksum;
    this.#block_bytes = blockBytes;
    this.#stream = new CanonicalStream(header.json);
    this.#raw = new Uint8Array(blockBytes);
  }

  /**
   * Makes the file and writes its header, `header` in canonical JSON.
   * @throws `trace_not_written` when the file exists (and `overwrite` is not set) or cannot be written; `invalid_request` when JSON cannot carry `header`.
   */
  static create(path: string, header: object, options: TraceWriterOptions = {}): TraceWriter {
    const { block_bytes = BLOCK_BYTES_DEFAULT, overwrite = false, write } = options;
    if (!Number.isInteger(block_bytes) || block_bytes < 1 || block_bytes > BLOCK_BYTES_MAX)
      throw new MinipodError('invalid_request', `block_bytes is ${block_bytes}; it must be a whole number from 1 to ${grouped(BLOCK_BYTES_MAX)}`, {
        param: 'block_bytes',
      });
    const packed = packHeader(header);
    const file = new OutputFile(path, overwrite, write);
    try {
      file.write(packed.bytes);
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
    return new TraceWriter(file, packed, block_bytes);
  }

  /** Records appended so far. */
  get records(): number {
    return this.#written + this.#pending;
  }

  /** Raw bytes that are not in the file yet: what a crash would lose. */
  get buffered_bytes(): number {
    return this.#used;
  }

  /** Length of the file so far. */
  get file_bytes(): number {
    return this.#file.size;
  }

  /**
   * Takes a copy of `record`, of up to 64 MiB; when the block is full, writes it.
   * @throws `trace_not_written` when the disk is full or failed: now, and at each call afterwards. `closed` after close().
   */
  append(record: Uint8Array): void {
    this.#file.check();
    if (record.length > RECORD_BYTES_MAX)
      throw new MinipodError('invalid_request', `a record of ${grouped(record.length)} bytes; ${grouped(RECORD_BYTES_MAX)} are allowed`, { param: 'record' });
    const needed = lengthBytes(record.length) + record.length;
    if (this.#used + needed > this.#block_bytes) this.flush();
    if (needed > this.#raw.length) this.#raw = new Uint8Array(needed);
    this.#raw.set(record, writeLength(this.#raw, this.#used, record.length));
    this.#used += needed;
    this.#pending++;
    if (this.#used >= this.#block_bytes) this.flush();
  }

  /** Writes what is buffered as a block of its own: it survives the death of this process. @throws as `append`. */
  flush(): void {
    this.#file.check();
    if (this.#pending === 0) return;
    const raw = this.#raw.subarray(0, this.#used);
    const offset = this.#file.size;
    this.#file.write(...packBlock(raw, this.#blocks, this.#written, this.#pending, this.#seed));
    this.#index.add({ number: this.#blocks, offset, first_record: this.#written });
    this.#stream.add(raw);
    this.#blocks++;
    this.#written += this.#pending;
    this.#pending = 0;
    this.#used = 0;
    // One large record must not hold its memory for the rest of the run.
    if (this.#raw.length > this.#block_bytes) this.#raw = new Uint8Array(this.#block_bytes);
  }

  /** Writes what is buffered and the end mark, and waits until the disk has it. @throws as `append`; the file is closed in any case. */
  close(): TraceIdentity {
    try {
      this.flush();
      const totals = { records: this.#written, blocks: this.#blocks, raw_bytes: this.#stream.bytes, hash: this.#stream.digest() };
      this.#file.write(packEnd(totals, this.#index, this.#seed));
      this.#file.sync();
      return { hash: totals.hash, records: totals.records, raw_bytes: totals.raw_bytes, file_bytes: this.#file.size };
    } finally {
      this.#file[Symbol.dispose]();
    }
  }

  /** Without close(): what is buffered is written, but no end mark, so that a reader sees that the run did not come to its end. */
  [Symbol.dispose](): void {
    try {
      // What failed was thrown where it failed.
      if (this.#file.isOpen && !this.#file.hasFailed) this.flush();
    } finally {
      this.#file[Symbol.dispose]();
    }
  }
}
