/**
 * A file that is read at any place, with every failure as `invalid_trace`.
 * @module
 */
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { MinipodError } from '../protocol/errors.ts';

export class InputFile implements Disposable {
  readonly path: string;
  /** Bytes when it was opened: of a run that still writes, what is there by then. */
  readonly size: number;
  #descriptor: number;

  /** @throws `invalid_trace` when there is no such file, it is no regular one, or may not be read. */
  constructor(path: string) {
    this.path = path;
    this.#descriptor = -1;
    try {
      // Asked before it is opened: opening a pipe waits for its writer.
      const stat = statSync(path);
      if (!stat.isFile()) throw this.invalid(stat.isDirectory() ? 'is a directory; a trace is a file' : 'is not a regular file');
      this.#descriptor = openSync(path, 'r');
      this.size = fstatSync(this.#descriptor).size;
    } catch (error) {
      this[Symbol.dispose]();
      if (error instanceof MinipodError) throw error;
      throw (error as { code?: unknown } | null)?.code === 'ENOENT' ? this.invalid('no such file', error) : this.invalid('cannot be opened', error);
    }
  }

  /** The bytes from `at` on: `bytes` of them, or fewer where the file ends. They are the caller's. */
  read(at: number, bytes: number): Uint8Array {
    if (this.#descriptor < 0) throw new MinipodError('closed', `${this.path}: the reader of this trace is closed`);
    const buffer = new Uint8Array(Math.max(0, Math.min(bytes, this.size - at)));
    let filled = 0;
    while (filled < buffer.length) {
      const count = this.#readOnce(buffer, filled, at + filled);
      // Somebody cut the file off while it was read.
      if (count === 0) break;
      filled += count;
    }
    return buffer.subarray(0, filled);
  }

  #readOnce(buffer: Uint8Array, from: number, at: number): number {
    try {
      return readSync(this.#descriptor, buffer, from, buffer.length - from, at);
    } catch (error) {
      throw this.invalid(`cannot be read at byte ${at}`, error);
    }
  }

  invalid(what: string, cause?: unknown): MinipodError {
    const reason = cause instanceof Error ? `: ${cause.message}` : '';
    return new MinipodError('invalid_trace', `${this.path}: ${what}${reason}`, { cause });
  }

  [Symbol.dispose](): void {
    if (this.#descriptor >= 0) closeSync(this.#descriptor);
    this.#descriptor = -1;
  }
}
