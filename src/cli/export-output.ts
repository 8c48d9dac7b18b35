/**
 * Where an export goes: a file of its own, or standard output.
 * @module
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { MinipodError } from '../index.ts';
import { print } from './output.ts';

export class ExportOutput implements Disposable {
  readonly #path: string | null;
  #file: number | null;

  /**
   * @param path null: standard output
   * @throws `trace_not_written` where the file exists and may not be replaced, or cannot be made
   */
  constructor(path: string | null, overwrite: boolean) {
    this.#path = path;
    this.#file = path === null ? null : open(path, overwrite);
  }

  async write(text: string): Promise<void> {
    if (this.#file === null) return await print(text);
    const bytes = Buffer.from(text);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at);
    } catch (error) {
      throw notWritten(this.#path, error);
    }
  }

  [Symbol.dispose](): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }
}

function open(path: string, overwrite: boolean): number {
  try {
    return openSync(path, overwrite ? 'w' : 'wx');
  } catch (error) {
    const isThere = (error as NodeJS.ErrnoException).code === 'EEXIST';
    throw isThere ? new MinipodError('trace_not_written', `${path} exists; --overwrite replaces it`, { cause: error }) : notWritten(path, error);
  }
}

const notWritten = (path: string | null, error: unknown): MinipodError =>
  new MinipodError('trace_not_written', `${path}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
