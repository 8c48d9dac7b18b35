/**
 * Reads a trace file of any length with the memory of one block, and says exactly where it is damaged.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { BlockWalk, type Expected } from './block-walk.ts';
import type { TraceDamage } from './damage.ts';
import type { EndMark } from './end-mark.ts';
import { InputFile } from './input-file.ts';
import { type ReadHeader, readHeader } from './trace-header.ts';
import { TraceRecords } from './trace-records.ts';

export type TraceTotals = Pick<EndMark, 'records' | 'blocks' | 'raw_bytes' | 'hash'>;

export type ReadOptions = {
  /**
   * Makes the reader pass over damage and go on with the next good block; called with each, in order, with what was lost.
   * Without it the reader stops at the first.
   */
  readonly onDamage?: (damage: TraceDamage) => void;
};

/**
 * @example
 * using reader = TraceReader.open('run.trace');
 * const records = reader.records();
 * for (const { index, bytes } of records) console.log(index, bytes.length);
 * if (records.damage) console.log(records.damage.message);
 */
export class TraceReader implements Disposable {
  readonly path: string;
  readonly file_bytes: number;
  readonly version: number;
  /** The object that the writer was given. */
  readonly header: Readonly<Record<string, unknown>>;
  /** What the end mark says, before anything is read; null if the file has no sound one: unfinished, or damaged at its end. */
  readonly totals: TraceTotals | null;
  readonly #file: InputFile;
  readonly #head: ReadHeader;
  readonly #walk: BlockWalk;

  private constructor(file: InputFile) {
    this.#file = file;
    this.#head = readHeader(file);
    this.#walk = new BlockWalk(file, this.#head.checksum);
    this.path = file.path;
    this.file_bytes = file.size;
    this.version = this.#head.version;
    this.header = this.#head.value;
    const { end } = this.#walk;
    this.totals = end && { records: end.records, blocks: end.blocks, raw_bytes: end.raw_bytes, hash: end.hash };
  }

  /** @throws `invalid_trace` when there is no such file, it is no trace, its header is damaged, or its format is not known. */
  static open(path: string): TraceReader {
    const file = new InputFile(path);
    try {
      return new TraceReader(file);
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * The records from number `from` on (0 is the first), read as they are iterated. What is before is not decompressed, and with the end mark's index hardly touched.
   * Several may be under way at once. Damage does not throw, it ends the iteration: look at `damage` afterwards.
   * @throws `invalid_trace` from the iteration when the disk fails
   */
  records(from = 0, options: ReadOptions = {}): TraceRecords {
    if (!Number.isSafeInteger(from) || from < 0)
      throw new MinipodError('invalid_request', `records from ${from}: the first record is 0, and numbers are whole`, { param: 'from' });
    const head = { json: this.#head.json, file_bytes: this.file_bytes };
    return new TraceRecords(this.#walk, head, this.#start(from), from, options.onDamage ?? null);
  }

  /** The last block of the index that begins at or before record `from`, or the first block. */
  #start(from: number): Expected {
    const place = this.#walk.end?.places.findLast(({ first_record }) => first_record <= from);
    const indexed = place && { offset: place.offset, number: place.number, record: place.first_record };
    // An index that lies is no reason not to find the record.
    return indexed && this.#walk.look(indexed).kind === 'block' ? indexed : { offset: this.#head.bytes, number: 0, record: 0 };
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
