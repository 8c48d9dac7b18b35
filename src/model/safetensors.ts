/**
 * The safetensors format: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes without gaps.
 * Nothing in the header is believed before it is checked: lengths bound every read and every loop.
 * @module
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { MinipodError } from '../protocol/errors.ts';
import { reason } from './json-file.ts';

const LENGTH_BYTES = 8;
/** The format's own limit on a header. */
const HEADER_BYTES_MAX = 100_000_000;
/** One read of the operating system moves less than 2 GiB; larger ones are cut into these. */
const READ_BYTES_MAX = 2 ** 30;

export const DTYPE_BYTES = { BF16: 2, F16: 2, F32: 4, I8: 1 } as const;
export type Dtype = keyof typeof DTYPE_BYTES;

/** Where a tensor lies: `bytes` from `offset` (of the file, not of the data section). */
export type StoredTensor = {
  readonly file: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
};

/** Opens a file, reads its header, closes it. Throws `invalid_checkpoint` naming the file. */
export function readSafetensorsHeader(file: string): Map<string, StoredTensor> {
  const descriptor = openFile(file);
  try {
    return readHeader(descriptor, file);
  } finally {
    closeSync(descriptor);
  }
}

export function openFile(file: string): number {
  try {
    return openSync(file, 'r');
  } catch (error) {
    throw new MinipodError('invalid_checkpoint', `${file}: cannot be opened: ${reason(error)}`, { cause: error });
  }
}

/** Fills `target` from byte `position` of the file. The target may lie in shared memory. Throws `invalid_checkpoint` if the file ends before. */
export function readFully(descriptor: number, file: string, target: Uint8Array, position: number): void {
  for (let done = 0; done < target.byteLength; ) {
    const length = Math.min(target.byteLength - done, READ_BYTES_MAX);
    let read: number;
    try {
      read = readSync(descriptor, target, done, length, position + done);
    } catch (error) {
      throw new MinipodError('invalid_checkpoint', `${file}: cannot be read: ${reason(error)}`, { cause: error });
    }
    if (read === 0) throw new MinipodError('invalid_checkpoint', `${file}: ends at byte ${position + done}, expected ${target.byteLength - done} more`);
    done += read;
  }
}

/** Reads and checks the header of an open file. */
export function readHeader(descriptor: number, file: string): Map<string, StoredTensor> {
  const fail = (message: string, cause?: unknown): never => {
    throw new MinipodError('invalid_checkpoint', `${file}: ${message}`, { cause });
  };
  const fileBytes = fstatSync(descriptor).size;
  if (fileBytes < LENGTH_BYTES) fail(`is ${fileBytes} bytes long; a safetensors file has at least ${LENGTH_BYTES}`);
  const lengthField = new Uint8Array(LENGTH_BYTES);
  readFully(descriptor, file, lengthField, 0);
  const headerBytes = new DataView(lengthField.buffer).getBigUint64(0, true);
  if (headerBytes > BigInt(fileBytes - LENGTH_BYTES)) fail(`header length ${headerBytes} is larger than the file (${fileBytes} bytes)`);
  if (headerBytes > BigInt(HEADER_BYTES_MAX)) fail(`header length ${headerBytes} is above the format's limit of ${HEADER_BYTES_MAX}`);

  const header = new Uint8Array(Number(headerBytes));
  readFully(descriptor, file, header, LENGTH_BYTES);
  const dataStart = LENGTH_BYTES + header.byteLength;
  let text = '';
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(header);
    value = JSON.parse(text);
  } catch (error) {
    fail(`header is not JSON: ${reason(error)}`, error);
  }
  if (!isRecord(value)) return fail('header is not a JSON object');
  const repeated = firstRepeatedKey(text);
  if (repeated !== null) fail(`tensor ${repeated} appears twice in the header`);

  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(value)) {
    if (name === '__metadata__') continue;
    const problem = (message: string): never => fail(`tensor ${name}: ${message}`);
    tensors.set(name, parseEntry(entry, file, dataStart, fileBytes - dataStart, problem));
  }
  checkCoverage(tensors, dataStart, fileBytes, fail);
  return tensors;
}

function parseEntry(entry: unknown, file: string, dataStart: number, dataBytes: number, problem: (message: string) => never): StoredTensor {
  if (!isRecord(entry)) return problem(`expected an object with dtype, shape and data_offsets, found ${show(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) return problem(`expected dtype BF16, F16, F32 or I8, found ${show(dtype)}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) return problem(`expected a shape of whole numbers, found ${show(shape)}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) return problem(`expected two data_offsets, found ${show(offsets)}`);
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > dataBytes) return problem(`data_offsets ${show(offsets)} lie outside the ${dataBytes} bytes of data`);
  const expected = (shape as number[]).reduce((product, size) => product * size, DTYPE_BYTES[dtype as Dtype]);
  if (expected !== end - begin) return problem(`shape ${show(shape)} of ${dtype} takes ${expected} bytes, data_offsets span ${end - begin}`);
  return { file, dtype: dtype as Dtype, shape: shape as number[], offset: dataStart + begin, bytes: end - begin };
}

/** The format has no gaps and no overlaps: a shifted offset would load another tensor's bytes without any error. */
function checkCoverage(tensors: ReadonlyMap<string, StoredTensor>, dataStart: number, fileBytes: number, fail: (message: string) => never): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  let covered = dataStart;
  for (const [name, { offset, bytes }] of inOrder) {
    if (offset < covered) fail(`tensor ${name} overlaps the one before it at byte ${offset}`);
    if (offset > covered) fail(`bytes ${covered} to ${offset}, before tensor ${name}, belong to no tensor`);
    covered = offset + bytes;
  }
  if (covered !== fileBytes) fail(`the last tensor ends at byte ${covered}, the file at ${fileBytes}`);
}

/** JSON.parse keeps the last of two equal keys in silence. The text is known to be JSON of an object. */
function firstRepeatedKey(json: string): string | null {
  const seen = new Set<string>();
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === '{' || character === '[') depth++;
    else if (character === '}' || character === ']') depth--;
    else if (character === '"') {
      const start = at;
      for (at++; json[at] !== '"'; at++) if (json[at] === '\\') at++;
      if (depth !== 1) continue;
      // A string directly inside the outer object is a key or a value; only `__metadata__`-like values are strings, and a key has its colon.
      if (!/^\s*:/.test(json.slice(at + 1, at + 16))) continue;
      const key: string = JSON.parse(json.slice(start, at + 1));
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return null;
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const isSize = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const show = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 200));
