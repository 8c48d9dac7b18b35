/**
 * A disk that a run is recorded on, and that fills up: the run goes on as ever, and its trace says that it was cut there.
 * @module
 */
import { mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MinipodError } from '../protocol/errors.ts';
import type { TraceDisk } from '../trace/output-file.ts';
import { TraceReader } from '../trace/trace-reader.ts';

/** So says a recorder that its disk is full. */
const SAID = /cannot be written at byte [\d,]+; its first [\d,]+ bytes can be read: ENOSPC/;

export class FullDisk implements TraceDisk, Disposable {
  readonly path: string;
  /** Where nobody asked for the trace. */
  readonly #folder: string | null;
  #free = Number.POSITIVE_INFINITY;
  #ended: MinipodError | null = null;

  constructor(record: string | undefined) {
    this.#folder = record === undefined ? mkdtempSync(join(tmpdir(), 'minipod-chaos-')) : null;
    this.path = record ?? join(this.#folder as string, 'run.trace');
  }

  /** It takes so many bytes more. */
  fillUp(bytes: number): void {
    this.#free = Math.min(this.#free, bytes);
  }

  readonly write: TraceDisk['write'] = (descriptor, bytes, from, length, at) => {
    const count = Math.min(length, this.#free);
    if (count === 0 && length > 0) throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    this.#free -= count;
    return writeSync(descriptor, bytes, from, count, at);
  };

  readonly onEnded = (error: MinipodError): void => {
    this.#ended = error;
  };

  /** The trace ends before its run. */
  get hasCut(): boolean {
    return this.#ended !== null;
  }

  /** Of a trace that nobody writes any more: what of it is not as it must be. */
  wrong(): string[] {
    using reader = TraceReader.open(this.path);
    const records = reader.records();
    let count = 0;
    for (const _ of records) count++;
    const found = records.damage?.message ?? 'all of it is there';
    if (this.#ended === null) return records.damage === null ? [] : [`nobody said that the trace was cut, and of it is read: ${found}`];
    return [
      ...(SAID.test(this.#ended.message) ? [] : [`of a full disk it was said: ${this.#ended.message}`]),
      ...(records.damage?.kind === 'unfinished' ? [] : [`its disk was full, and of the trace is read, after ${count} records: ${found}`]),
    ];
  }

  [Symbol.dispose](): void {
    if (this.#folder !== null) rmSync(this.#folder, { recursive: true, force: true });
  }
}
