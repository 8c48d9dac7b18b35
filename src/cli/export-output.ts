/**
 * Where an export goes: a file of its own, or standard output.
 * @module
 */
import { closeSync, existsSync, openSync, writeSync } from 'node:fs';
import { MinipodError } from '../index.ts';
import { isSameFile } from '../trace/same-file.ts';
import { print } from './output.ts';
import { UsageError } from './usage-error.ts';

export type ExportPlace = {
  /** Null: standard output. */
  readonly out: string | null;
  readonly overwrite: boolean;
  /** What is read: it is never written over. */
  readonly source: string;
};

export class ExportOutput implements Disposable {
  readonly #place: ExportPlace;
  #file: number | null = null;

  /** Makes no file before there is something to write. @throws `trace_not_written` where it exists and may not be replaced */
  constructor(place: ExportPlace) {
    this.#place = place;
    const { out, overwrite, source } = place;
    if (out === null || !existsSync(out)) return;
    if (isSameFile(out, source)) throw new UsageError(`export: --out ${out} is the trace itself`);
    if (!overwrite) throw new MinipodError('trace_not_written', `${out} exists; --overwrite replaces it`);
  }

  /** @throws `trace_not_written` where the disk fails, or the file cannot be made */
  async write(text: string): Promise<void> {
    const { out } = this.#place;
    if (out === null) return await print(text);
    try {
      this.#file ??= openSync(out, this.#place.overwrite ? 'w' : 'wx');
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at);
    } catch (error) {
      throw new MinipodError('trace_not_written', `${out}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }

  [Symbol.dispose](): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }
}
