/**
 * Files of torch.save (its zip format, since torch 1.6), as far as they hold plain data and tensors of numbers.
 *
 *   NAME/data.pkl   the pickle      NAME/data/0, 1 …   storages of tensors      NAME/byteorder   `little`, or missing
 *
 * torch stores its entries without compression. They are found by the zip's central directory, at its end.
 * @module
 */
import { MinipodError } from '../index.ts';
import { readPickle, type Tensor, type TensorPlace } from './torch-pickle.ts';

const END_MARKER = 0x06054b50;
const ENTRY_MARKER = 0x02014b50;
const END = { entries: 10, directory: 16, bytes: 22 } as const;
const ENTRY = { method: 10, stored: 20, name: 28, extra: 30, comment: 32, local: 42, bytes: 46 } as const;
const LOCAL = { name: 26, extra: 28, bytes: 30 } as const;
/** A zip's comment. */
const COMMENT_BYTES_MAX = 65_535;
const IS_ZIP64 = 0xffffffff;

/** By torch's name of the storage: bytes of an element, and how one is read. */
const ELEMENTS: Readonly<Record<string, readonly [bytes: number, read: (view: DataView, at: number) => number]>> = {
  Byte: [1, (view, at) => view.getUint8(at)],
  Char: [1, (view, at) => view.getInt8(at)],
  Bool: [1, (view, at) => view.getUint8(at)],
  Short: [2, (view, at) => view.getInt16(at, true)],
  Int: [4, (view, at) => view.getInt32(at, true)],
  Long: [8, (view, at) => Number(view.getBigInt64(at, true))],
  Float: [4, (view, at) => view.getFloat32(at, true)],
  Double: [8, (view, at) => view.getFloat64(at, true)],
};

export const isTorchFile = (bytes: Uint8Array): boolean => bytes[0] === 0x50 && bytes[1] === 0x4b && bytes[2] === 3 && bytes[3] === 4;

/** What was saved. @throws `invalid_request` that says why it cannot be read */
export function readTorch(bytes: Uint8Array, path: string): unknown {
  try {
    const entries = entriesOf(bytes);
    const pickle = [...entries.keys()].find((name) => name.endsWith('/data.pkl'));
    if (pickle === undefined) throw new Error('it is a zip, and not one that torch.save writes: it has no data.pkl');
    const folder = pickle.slice(0, -'data.pkl'.length);
    const order = entries.get(`${folder}byteorder`);
    if (order !== undefined && new TextDecoder().decode(order) !== 'little') throw new Error('its numbers are not little-endian');
    return readPickle(entries.get(pickle) as Uint8Array, (place) => tensor(place, entries.get(`${folder}data/${place.storage}`)));
  } catch (error) {
    throw new MinipodError('invalid_request', `${path}: ${error instanceof Error ? error.message : error}`, { param: 'file', cause: error });
  }
}

function tensor({ type, storage, offset, shape, strides }: TensorPlace, bytes: Uint8Array | undefined): Tensor {
  return {
    shape,
    values: () => {
      const [size, read] = ELEMENTS[type] ?? [];
      if (size === undefined || read === undefined)
        throw new Error(`a tensor has elements of torch’s type ${type}, and only whole and plain floating numbers are read`);
      if (bytes === undefined) throw new Error(`the data of storage ${storage} is missing`);
      const last = shape.reduce((sum, count, axis) => sum + (count - 1) * (strides[axis] ?? 0), offset);
      if (shape.length !== strides.length || ![...shape, ...strides, offset].every((count) => Number.isInteger(count) && count >= 0))
        throw new Error('a tensor’s shape is none');
      if (shape.includes(0)) return [];
      if ((last + 1) * size > bytes.length)
        throw new Error(`a tensor goes beyond its storage ${storage}, which has ${bytes.length} bytes: the file is cut off`);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const count = shape.reduce((product, length) => product * length, 1);
      return Array.from({ length: count }, (_, index) => {
        let rest = index;
        let at = offset;
        for (let axis = shape.length - 1; axis >= 0; axis--) {
          const length = shape[axis] as number;
          at += (rest % length) * (strides[axis] as number);
          rest = Math.floor(rest / length);
        }
        return read(view, at * size);
      });
    },
  };
}

function entriesOf(bytes: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const cutOff = new Error('it is a zip that is cut off or damaged');
  let end = bytes.length - END.bytes;
  while (end >= 0 && view.getUint32(end, true) !== END_MARKER) {
    end--;
    if (bytes.length - end > END.bytes + COMMENT_BYTES_MAX) throw cutOff;
  }
  if (end < 0) throw cutOff;
  const entries = new Map<string, Uint8Array>();
  let at = view.getUint32(end + END.directory, true);
  for (let left = view.getUint16(end + END.entries, true); left > 0; left--) {
    if (at + ENTRY.bytes > bytes.length || view.getUint32(at, true) !== ENTRY_MARKER) throw cutOff;
    const [stored, local, name] = [view.getUint32(at + ENTRY.stored, true), view.getUint32(at + ENTRY.local, true), view.getUint16(at + ENTRY.name, true)];
    if (stored === IS_ZIP64 || local === IS_ZIP64) throw new Error('it is a zip of more than 4 GiB: save its counts as JSON instead');
    if (view.getUint16(at + ENTRY.method, true) !== 0) throw new Error('its entries are compressed, which torch.save does not do');
    if (local + LOCAL.bytes > bytes.length) throw cutOff;
    const from = local + LOCAL.bytes + view.getUint16(local + LOCAL.name, true) + view.getUint16(local + LOCAL.extra, true);
    if (from + stored > bytes.length) throw cutOff;
    entries.set(new TextDecoder().decode(bytes.subarray(at + ENTRY.bytes, at + ENTRY.bytes + name)), bytes.subarray(from, from + stored));
    at += ENTRY.bytes + name + view.getUint16(at + ENTRY.extra, true) + view.getUint16(at + ENTRY.comment, true);
  }
  return entries;
}
