/**
 * What is wrong with a trace, and where.
 * @module
 */

/**
 * `unfinished`: the file ends without its end mark, all before is whole. `damaged`: bytes are not as they were written.
 * Bytes, blocks and records are counted from 0; `record` is the first that cannot be read.
 */
export type TraceDamage = {
  readonly kind: 'unfinished' | 'damaged';
  /** A sentence that names block and byte. */
  readonly message: string;
  readonly byte: number;
  /** The block that must be there. */
  readonly block: number;
  readonly record: number;
  /** What was passed over, where the reader goes on behind it; null where it stopped, or cannot tell. */
  readonly bytes_lost: number | null;
  readonly records_lost: number | null;
};

/** 1234567 as 1,234,567. Not Intl's, which differs between runtimes. */
export const grouped = (count: number): string => String(count).replace(/\B(?=(\d{3})+$)/g, ',');
