/**
 * The acts of a trace, in the order of the file. Records of other kinds are passed over.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { ActRecord } from './act-record.ts';
import type { TraceDamage } from './damage.ts';
import { grouped } from './damage.ts';
import type { TraceIdentity } from './identity.ts';
import { decodeRecord } from './trace-codec.ts';
import type { TraceReader } from './trace-reader.ts';
import type { TraceRecord, TraceRecords } from './trace-records.ts';

/** `index`: the record's number in the trace, from 0. */
export type TracedAct = TraceRecord & { readonly act: ActRecord };

/** Called with the byte of the file that has been reached; what it returns is waited for, so that a screen is drawn and a signal heard meanwhile. */
export type Pause = (offset: number) => Promise<void> | undefined;

/**
 * @example
 * const acts = actsOf(reader);
 * for (const { index, act } of acts) console.log(index, act.to, act.message?.type);
 * if (acts.damage) console.log(acts.damage.message);
 */
export class Acts implements Iterable<TracedAct> {
  /** Why recording ended before the run did; null: it did not, as far as was read. */
  stopped: string | null = null;
  /** Records that were read, of any kind. */
  records = 0;
  readonly #path: string;
  readonly #pass: TraceRecords;

  constructor(path: string, pass: TraceRecords) {
    this.#path = path;
    this.#pass = pass;
  }

  /** As of the pass over the records. */
  get damage(): TraceDamage | null {
    return this.#pass.damage;
  }

  get identity(): TraceIdentity | null {
    return this.#pass.identity;
  }

  *[Symbol.iterator](): Generator<TracedAct, void, undefined> {
    this.records = 0;
    this.stopped = null;
    for (const record of this.#pass) {
      this.records++;
      const value = this.#decode(record);
      if (isActRecord(value)) yield { ...record, act: value };
      else if (kindOf(value) === 'act') throw this.#invalid(record, 'is no act as this minipod knows them');
      else if (kindOf(value) === 'stopped') this.stopped = String((value as { reason?: unknown }).reason);
    }
  }

  #decode(record: TraceRecord): unknown {
    try {
      return decodeRecord(record.bytes);
    } catch (error) {
      throw this.#invalid(record, `is no msgpack: ${error instanceof Error ? error.message : error}`);
    }
  }

  #invalid({ index }: TraceRecord, what: string): MinipodError {
    return new MinipodError('invalid_trace', `${this.#path}: record ${grouped(index)} ${what}`);
  }
}

/** @throws `invalid_trace` from the iteration, for a record that is no msgpack, or an act of a shape that is not known */
export const actsOf = (reader: TraceReader, from = 0): Acts => new Acts(reader.path, reader.records(from));

const kindOf = (value: unknown): unknown => (typeof value === 'object' && value !== null ? (value as { kind?: unknown }).kind : undefined);

const isText = (value: unknown): boolean => typeof value === 'string';
const isNumber = (value: unknown): boolean => typeof value === 'number';
const isTextOrNull = (value: unknown): boolean => value === null || typeof value === 'string';

function isActRecord(value: unknown): value is ActRecord {
  if (kindOf(value) !== 'act') return false;
  const { thread, number, time_us, to, from, cause_thread, cause, machine, message, state, is_expected, commands } = value as ActRecord;
  return (
    isNumber(thread) &&
    isNumber(number) &&
    isNumber(time_us) &&
    isText(to) &&
    isText(from) &&
    isNumber(cause_thread) &&
    isNumber(cause) &&
    isTextOrNull(machine) &&
    (message === null || (typeof message === 'object' && isText(message?.type))) &&
    isTextOrNull(state) &&
    typeof is_expected === 'boolean' &&
    Array.isArray(commands) &&
    commands.every(isNumber)
  );
}
