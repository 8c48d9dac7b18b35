/**
 * A safetensors file whose header is known before its tensors are, which then come in any order.
 * @module
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { DTYPE_BYTES, type Dtype } from '../model/safetensors.ts';
import { assert, MinipodError } from '../protocol/errors.ts';

export type TensorPlan = { readonly name: string; readonly dtype: Dtype; readonly shape: readonly number[] };

const LENGTH_BYTES = 8;
/** So that every tensor's first byte can be read as a float. */
const ALIGNMENT = 8;

const bytesOf = ({ dtype, shape }: TensorPlan): number => shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);

export class QuantizedFile implements Disposable {
  readonly bytes: number;
  readonly #descriptor: number;
  readonly #places = new Map<string, { readonly offset: number; readonly bytes: number }>();
  readonly #missing = new Set<string>();

  /** @throws `invalid_request` where the file is there already, or cannot be made */
  constructor(path: string, tensors: readonly TensorPlan[]) {
    const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
    let offset = 0;
    // Widest elements first, so that none lies at an odd place.
    for (const tensor of tensors.toSorted((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype])) {
      const bytes = bytesOf(tensor);
      header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [offset, offset + bytes] };
      this.#places.set(tensor.name, { offset, bytes });
      this.#missing.add(tensor.name);
      offset += bytes;
    }
    const json = JSON.stringify(header);
    const padded = json + ' '.repeat((ALIGNMENT - ((LENGTH_BYTES + json.length) % ALIGNMENT)) % ALIGNMENT);
    const text = new TextEncoder().encode(padded);
    assert(text.length === padded.length, 'names of tensors are ASCII');
    try {
      this.#descriptor = openSync(path, 'wx');
    } catch (error) {
      throw new MinipodError('invalid_request', `out: ${path} cannot be made: ${error instanceof Error ? error.message : error}`, {
        param: 'out',
        cause: error,
      });
    }
    const length = new Uint8Array(LENGTH_BYTES);
    new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
    this.#writeAll(length, 0);
    this.#writeAll(text, LENGTH_BYTES);
    const start = LENGTH_BYTES + text.length;
    for (const [name, place] of this.#places) this.#places.set(name, { ...place, offset: place.offset + start });
    this.bytes = start + offset;
  }

  write(name: string, bytes: Uint8Array): void {
    const place = this.#places.get(name);
    assert(place && bytes.length === place.bytes && this.#missing.delete(name), `${name} has ${place?.bytes} bytes and is written once, not ${bytes.length}`);
    this.#writeAll(bytes, place.offset);
  }

  #writeAll(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#descriptor, bytes, done, bytes.length - done, position + done);
  }

  /** All tensors must have been written. */
  end(): void {
    assert(this.#missing.size === 0, `${[...this.#missing][0]} was not written`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}
