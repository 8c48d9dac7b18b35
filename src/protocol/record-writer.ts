/**
 * Writes records as msgpackr does, byte for byte, in a fifth to a third of its time. msgpackr walks a hash table for each key, twice an object;
 * here one walk over the keys finds the structure, checks its order and writes the values.
 *
 *   declared record   | 0x40 + index of its structure | values in the order of its keys |              the first 32
 *                     | 0x60 + index mod 32 | index / 32 − 1 | values in the order of its keys |     those behind
 *   as a map          | 0xde | number of keys: 2 bytes | key | value | key | value | …
 *   the rest          msgpack
 *
 * It knows what messages are made of: records, arrays, strings, numbers, booleans, null. `write` says when there is anything else.
 * @module
 */
import { assert } from './errors.ts';

/** Keys of a record read so far. Siblings and children as lists: they are short, and strings of keys are compared by their pointers. */
type Step = { readonly key: string; id: number; child: Step | null; sibling: Step | null };

/** Smaller numbers are one byte; the bytes from here on are ids of records, where there are any. */
const FIRST_RECORD_ID = 0x40;
const FIRST_MAP_ID = 0x80;
const MAP_HEAD_BYTES = 3;
const MAP_KEYS_MAX = 0xffff;
/** msgpackr gives those after them ids of two bytes. Those that travel often stand first. */
const RECORDS_OF_ONE_BYTE = 0x20;
const RECORDS_MAX = 0x100;
const NO_RECORD = 0;
const UNKNOWN = -1;
/** The longest value but for strings, arrays and records: nine bytes, and what follows it. */
const SCALAR_BYTES = 16;
/** Below, a string has a head of one byte. */
const SHORT_LETTERS = 0x20;
const STRING_HEAD_BYTES_MAX = 5;
const UTF8_BYTES_MAX = 3;

/** What is kept from one record to the next; a larger one's memory is let go of, since many threads write records. */
const WORDS_MIN = 1_024;
const WORDS_KEPT_MAX = 2 ** 18;

const utf8 = new TextEncoder();

export class RecordWriter {
  /** Both of one memory, replaced when it grows. */
  words = new Int32Array(WORDS_MIN);
  #bytes = new Uint8Array(this.words.buffer);
  #view = new DataView(this.words.buffer);
  #end = this.#bytes.length - SCALAR_BYTES;
  readonly #first: Step = { key: '', id: NO_RECORD, child: null, sibling: null };
  readonly #asMaps: boolean;
  readonly #oneByteEnd: number;
  readonly #keptKeys: readonly string[];
  /** What values under those keys became. */
  readonly #kept = new WeakMap<object, Uint8Array>();

  /**
   * `structures`: the records that are declared; none: any record, as a map with its keys (msgpackr's `useRecords: false`).
   * `keptKeys`, for maps: objects under these keys come again and again and never change, so what they became is kept for as long as they live.
   */
  constructor(structures: readonly (readonly string[])[], keptKeys: readonly string[] = []) {
    this.#keptKeys = keptKeys;
    this.#asMaps = structures.length === 0;
    this.#oneByteEnd = this.#asMaps ? FIRST_MAP_ID : FIRST_RECORD_ID;
    assert(structures.length <= RECORDS_MAX, `${structures.length} structures, ${RECORDS_MAX} have an id`);
    structures.forEach((keys, index) => {
      let step = this.#first;
      for (const key of keys) step = childOf(step, key);
      step.id = FIRST_RECORD_ID + index;
    });
  }

  /** Bytes of `words`, from its start, there until the next one is written; −1: it has a part that is not declared. */
  write(message: unknown): number {
    if (this.words.length > WORDS_KEPT_MAX) this.#use(new Int32Array(WORDS_MIN));
    return this.#write(message, 0);
  }

  /** Each of these answers where the next value goes. */
  #write(value: unknown, at: number): number {
    if (at > this.#end) this.#grow(at);
    if (typeof value === 'number') return this.#number(value, at);
    if (typeof value === 'string') return this.#string(value, at);
    const bytes = this.#bytes;
    if (typeof value === 'boolean') {
      bytes[at] = value ? 0xc3 : 0xc2;
      return at + 1;
    }
    if (value === null) {
      bytes[at] = 0xc0;
      return at + 1;
    }
    if (value === undefined) {
      bytes[at] = 0xd4;
      bytes[at + 1] = 0;
      bytes[at + 2] = 0;
      return at + 3;
    }
    if (typeof value !== 'object') return UNKNOWN;
    if (Array.isArray(value)) return this.#array(value, at);
    return this.#asMaps ? this.#map(value, at) : this.#record(value as Readonly<Record<string, unknown>>, at);
  }

  #map(value: object, from: number): number {
    if (Object.getPrototypeOf(value) !== Object.prototype) return UNKNOWN;
    const record = value as Readonly<Record<string, unknown>>;
    let keys = 0;
    let at = from + MAP_HEAD_BYTES;
    for (const key in record) {
      const field = record[key];
      at = this.#string(key, at);
      at = typeof field === 'object' && field !== null && this.#keptKeys.includes(key) ? this.#writeKept(field, at) : this.#write(field, at);
      if (at < 0) return UNKNOWN;
      keys++;
    }
    if (keys > MAP_KEYS_MAX) return UNKNOWN;
    const bytes = this.#bytes;
    bytes[from] = 0xde;
    bytes[from + 1] = keys >> 8;
    bytes[from + 2] = keys;
    return at;
  }

  #record(record: Readonly<Record<string, unknown>>, from: number): number {
    let step: Step | null = this.#first;
    let at = from + 1;
    for (const key in record) {
      step = step.child;
      while (step !== null && step.key !== key) step = step.sibling;
      if (step === null) return UNKNOWN;
      const value = record[key];
      at = this.#write(value, at);
      if (at < 0) return UNKNOWN;
    }
    if (step.id === NO_RECORD) return UNKNOWN;
    const index = step.id - FIRST_RECORD_ID;
    this.#bytes[from] = index < RECORDS_OF_ONE_BYTE ? step.id : FIRST_RECORD_ID + RECORDS_OF_ONE_BYTE + (index % RECORDS_OF_ONE_BYTE);
    if (index < RECORDS_OF_ONE_BYTE) return at;
    // Which record it is shows after its last key only.
    if (at + 1 > this.#end) this.#grow(at + 1);
    this.#bytes.copyWithin(from + 2, from + 1, at);
    this.#bytes[from + 1] = Math.floor(index / RECORDS_OF_ONE_BYTE) - 1;
    return at + 1;
  }

  #writeKept(value: object, at: number): number {
    const known = this.#kept.get(value);
    if (known === undefined) {
      const end = this.#write(value, at);
      if (end > 0) this.#kept.set(value, this.#bytes.slice(at, end));
      return end;
    }
    if (at + known.length > this.#end) this.#grow(at + known.length);
    this.#bytes.set(known, at);
    return at + known.length;
  }

  #array(values: readonly unknown[], from: number): number {
    const bytes = this.#bytes;
    const { length } = values;
    let at = from;
    if (length < 0x10) bytes[at++] = 0x90 | length;
    else if (length < 0x10000) {
      bytes[at++] = 0xdc;
      bytes[at++] = length >> 8;
      bytes[at++] = length;
    } else {
      bytes[at++] = 0xdd;
      this.#view.setUint32(at, length);
      at += 4;
    }
    for (let index = 0; index < length; index++) {
      at = this.#write(values[index], at);
      if (at < 0) return UNKNOWN;
    }
    return at;
  }

  #number(value: number, from: number): number {
    const bytes = this.#bytes;
    const integer = value | 0;
    let at = from;
    if (integer === value) {
      if (integer >= 0) {
        if (integer < this.#oneByteEnd) bytes[at++] = integer;
        else if (integer < 0x100) {
          bytes[at++] = 0xcc;
          bytes[at++] = integer;
        } else if (integer < 0x10000) {
          bytes[at++] = 0xcd;
          bytes[at++] = integer >> 8;
          bytes[at++] = integer;
        } else at = this.#word(0xce, integer, at);
      } else if (integer >= -0x20) bytes[at++] = integer;
      else if (integer >= -0x80) {
        bytes[at++] = 0xd0;
        bytes[at++] = integer;
      } else if (integer >= -0x8000) {
        bytes[at++] = 0xd1;
        bytes[at++] = integer >> 8;
        bytes[at++] = integer;
      } else at = this.#word(0xd2, integer, at);
    } else if (value >>> 0 === value) at = this.#word(0xce, value | 0, at);
    else {
      bytes[at++] = 0xcb;
      this.#view.setFloat64(at, value);
      at += 8;
    }
    return at;
  }

  #word(head: number, word: number, from: number): number {
    const bytes = this.#bytes;
    bytes[from] = head;
    bytes[from + 1] = word >> 24;
    bytes[from + 2] = word >> 16;
    bytes[from + 3] = word >> 8;
    bytes[from + 4] = word;
    return from + 5;
  }

  #string(value: string, from: number): number {
    const { length } = value;
    if (from + UTF8_BYTES_MAX * length > this.#end) this.#grow(from + UTF8_BYTES_MAX * length);
    const bytes = this.#bytes;
    if (length < SHORT_LETTERS) {
      let at = from + 1;
      let read = 0;
      for (; read < length; read++) {
        const letter = value.charCodeAt(read);
        if (letter >= 0x80) break;
        bytes[at++] = letter;
      }
      if (read === length) {
        bytes[from] = 0xa0 | length;
        return at;
      }
    }
    // Behind the longest head that there is; then they move to where theirs ends.
    const body = from + STRING_HEAD_BYTES_MAX;
    const { written } = utf8.encodeInto(value, bytes.subarray(body));
    const at = this.#stringHead(written, from);
    bytes.copyWithin(at, body, body + written);
    return at + written;
  }

  #stringHead(length: number, from: number): number {
    const bytes = this.#bytes;
    let at = from;
    if (length < SHORT_LETTERS) bytes[at++] = 0xa0 | length;
    else if (length < 0x100) {
      bytes[at++] = 0xd9;
      bytes[at++] = length;
    } else if (length < 0x10000) {
      bytes[at++] = 0xda;
      bytes[at++] = length >> 8;
      bytes[at++] = length;
    } else {
      bytes[at++] = 0xdb;
      this.#view.setUint32(at, length);
      at += 4;
    }
    return at;
  }

  #grow(bytes: number): void {
    const words = new Int32Array(2 * Math.ceil((bytes + SCALAR_BYTES) / 4));
    words.set(this.words);
    this.#use(words);
  }

  #use(words: Int32Array<ArrayBuffer>): void {
    this.#bytes = new Uint8Array(words.buffer);
    this.#view = new DataView(words.buffer);
    this.#end = this.#bytes.length - SCALAR_BYTES;
    this.words = words;
  }
}

/** Those that were declared first stand first: they travel often. */
function childOf(step: Step, key: string): Step {
  let last: Step | null = null;
  for (let child = step.child; child !== null; child = child.sibling) {
    if (child.key === key) return child;
    last = child;
  }
  const child: Step = { key, id: NO_RECORD, child: null, sibling: null };
  if (last === null) step.child = child;
  else last.sibling = child;
  return child;
}
