/**
 * A file that only grows, with every failure as `trace_not_written`. What could not be written whole is taken back.
 * @module
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { MinipodError } from '../protocol/errors.ts';
import { grouped } from './damage.ts';

/** What traces are written on, for whoever has one that fills up. */
export type TraceDisk = {
  /** As `writeSync` of node:fs. */
  readonly write: (descriptor: number, bytes: Uint8Array, from: number, length: number, at: number) => number;
  /** The recording has ended before the run: this is why. */
  readonly onEnded: (error: MinipodError) => void;
};

export class OutputFile implements Disposable {
  readonly path: string;
  /** Bytes written whole. */
  size = 0;
  #descriptor: number;
  readonly #write: TraceDisk['write'];
  #failure: MinipodError | null = null;

  /** @throws `trace_not_written` when the file exists and `overwrite` is not set, or cannot be made. */
  constructor(path: string, overwrite: boolean, write: TraceDisk['write'] = writeSync) {
    this.path = path;
    this.#write = write;
    try {
      this.#descriptor = openSync(path, overwrite ? 'w' : 'wx');
    } catch (error) {
      const exists = (error as { code?: unknown } | null)?.code === 'EEXIST';
      throw this.#notWritten(exists ? 'exists already; name another file, or remove it' : 'cannot be made', exists ? undefined : error);
    }
  }

  get isOpen(): boolean {
    return this.#descriptor >= 0;
  }

  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /**
   * Writes all parts or none. After a failure each call throws the same error.
   * @throws `trace_not_written` naming the path and what of it can be read: the disk is full, or failed.
   */
  write(...parts: readonly Uint8Array[]): void {
    this.check();
    let at = this.size;
    try {
      for (const part of parts)
        for (let done = 0; done < part.length; ) {
          const count = this.#write(this.#descriptor, part, done, part.length - done, at);
          done += count;
          at += count;
        }
    } catch (error) {
      this.#failure = this.#notWritten(`cannot be written at byte ${grouped(at)}; its first ${grouped(this.size)} bytes can be read`, error);
      this.#takeBack();
      throw this.#failure;
    }
    this.size = at;
  }

  /** @throws the failure of an earlier write, or `closed`. */
  check(): void {
    if (this.#failure) throw this.#failure;
    if (!this.isOpen) throw new MinipodError('closed', `${this.path}: the trace is closed`);
  }

  /** Waits until the disk has all of it. @throws `trace_not_written` */
  sync(): void {
    this.check();
    try {
      fsyncSync(this.#descriptor);
    } catch (error) {
      this.#failure = this.#notWritten('is perhaps not on the disk', error);
      throw this.#failure;
    }
  }

  /** A torn block would be seen by the reader too; without it the file ends as if the run had been killed. */
  #takeBack(): void {
    try {
      ftruncateSync(this.#descriptor, this.size);
    } catch {
      // The error that matters is the one before; the reader sees the torn block by its length and its checksum.
    }
  }

  #notWritten(what: string, cause?: unknown): MinipodError {
    const reason = cause instanceof Error ? `: ${cause.message}` : '';
    return new MinipodError('trace_not_written', `${this.path}: ${what}${reason}`, { cause });
  }

  [Symbol.dispose](): void {
    if (this.isOpen) closeSync(this.#descriptor);
    this.#descriptor = -1;
  }
}
