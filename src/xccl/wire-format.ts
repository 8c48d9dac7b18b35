/**
 * Formats in which rows of activations travel (xDeepServe §3.2, dispatch step 2): a property of the call, never of the transport. f32 changes no bit.
 *
 *   a block of n rows    f32    | rows, 4 h bytes each |                       blocks of f32 lie end to end, so that they can be computed in place
 *                        bf16   | rows, 2 h each |                             padded to 16 bytes
 *                        int8   | scales, 4 each | rows, h each |              padded to 16 bytes
 *
 * @module
 */
import { offsetOf, roundUp, segmentOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { invariantBroken } from '../protocol/errors.ts';

export const WIRE_FORMATS = ['f32', 'bf16', 'int8'] as const;
export type WireFormat = (typeof WIRE_FORMATS)[number];
export const BLOCK_ALIGNMENT = 16;

/** What XCCL needs of the kernels of one segment: offsets within it, strides in floats. `Kernels` of src/model/kernels is one. */
export interface WireKernels {
  /** q i8 [rows, dim], scales f32 [rows]; what comes back differs by half a scale at most. */
  quantizeInt8(q: number, scales: number, x: number, xStride: number, rows: number, dim: number): void;
  dequantizeInt8(y: number, yStride: number, q: number, scales: number, rows: number, dim: number): void;
  packRowsBf16(y: number, x: number, xStride: number, rows: number, dim: number): void;
  unpackRowsBf16(y: number, yStride: number, x: number, rows: number, dim: number): void;
  /** dst row i = src row indices[i] */
  gatherRows(dst: number, src: number, indices: number, count: number, rowBytes: number): void;
  /** x[r] += Σₛ weights[r, s] row at rowAddresses[r, s], s ascending, + shared[r] if shared is not 0 */
  combineRowsAt(
    x: number,
    xStride: number,
    rowAddresses: number,
    weights: number,
    topK: number,
    shared: number,
    sharedStride: number,
    rows: number,
    dim: number,
  ): void;
}

export const formatCode = (format: WireFormat): number => WIRE_FORMATS.indexOf(format);

/** Bytes of a block of `rows` rows of `hidden` numbers. */
export function blockBytes(format: WireFormat, rows: number, hidden: number): number {
  if (format === 'f32') return 4 * rows * hidden;
  return roundUp(format === 'bf16' ? 2 * rows * hidden : rows * (4 + hidden), BLOCK_ALIGNMENT);
}

/** Rows that are brought from another segment before they are decoded: so few that they are still in the cache then. */
const STAGED_ROWS = 64;

/** Scratch of a `RowCodec`. */
export const stagingBytes = (hidden: number): number => Math.max(blockBytes('bf16', STAGED_ROWS, hidden), blockBytes('int8', STAGED_ROWS, hidden));

/** Turns f32 rows of its own segment into blocks, and blocks of any segment into f32 rows. All addresses are global. */
export class RowCodec {
  readonly #space: AddressSpace;
  readonly #kernels: WireKernels;
  readonly #hidden: number;
  readonly #staging: number;

  constructor(space: AddressSpace, kernels: WireKernels, hidden: number, staging: number) {
    this.#space = space;
    this.#kernels = kernels;
    this.#hidden = hidden;
    this.#staging = staging;
  }

  encode(to: number, from: number, rows: number, format: WireFormat): void {
    if (rows === 0) return;
    const hidden = this.#hidden;
    this.#mustBeOwn(to);
    this.#mustBeOwn(from);
    if (format === 'f32') this.#space.copy(to, from, 4 * rows * hidden);
    else if (format === 'bf16') this.#kernels.packRowsBf16(offsetOf(to), offsetOf(from), hidden, rows, hidden);
    else this.#kernels.quantizeInt8(offsetOf(to) + 4 * rows, offsetOf(to), offsetOf(from), hidden, rows, hidden);
  }

  /** A block of chosen rows of the block at `from`, which has `rows` of them; `indices`: u32 × count. */
  gather(to: number, from: number, rows: number, indices: number, count: number, format: WireFormat): void {
    if (count === 0) return;
    const kernels = this.#kernels;
    const hidden = this.#hidden;
    this.#mustBeOwn(to);
    this.#mustBeOwn(from);
    const target = offsetOf(to);
    const source = offsetOf(from);
    const chosen = offsetOf(indices);
    if (format === 'f32') kernels.gatherRows(target, source, chosen, count, 4 * hidden);
    else if (format === 'bf16') kernels.gatherRows(target, source, chosen, count, 2 * hidden);
    else {
      kernels.gatherRows(target, source, chosen, count, 4);
      kernels.gatherRows(target + 4 * count, source + 4 * rows, chosen, count, hidden);
    }
  }

  /** f32 rows of a block: read where it lies if that is this segment, else brought here first. */
  decode(to: number, from: number, rows: number, format: WireFormat): void {
    if (rows === 0) return;
    const hidden = this.#hidden;
    this.#mustBeOwn(to);
    if (format === 'f32') {
      this.#space.copy(to, from, 4 * rows * hidden);
      return;
    }
    if (segmentOf(from) === segmentOf(this.#staging)) {
      if (format === 'bf16') this.#unpack(offsetOf(to), offsetOf(from), rows);
      else this.#dequantize(offsetOf(to), offsetOf(from) + 4 * rows, offsetOf(from), rows);
      return;
    }
    const staging = this.#staging;
    for (let row = 0; row < rows; row += STAGED_ROWS) {
      const count = Math.min(STAGED_ROWS, rows - row);
      const target = offsetOf(to) + 4 * row * hidden;
      if (format === 'bf16') {
        this.#space.copy(staging, from + 2 * row * hidden, 2 * count * hidden);
        this.#unpack(target, offsetOf(staging), count);
      } else {
        this.#space.copy(staging, from + 4 * row, 4 * count);
        this.#space.copy(staging + 4 * count, from + 4 * rows + row * hidden, count * hidden);
        this.#dequantize(target, offsetOf(staging) + 4 * count, offsetOf(staging), count);
      }
    }
  }

  #unpack(to: number, from: number, rows: number): void {
    this.#kernels.unpackRowsBf16(to, this.#hidden, from, rows, this.#hidden);
  }

  #dequantize(to: number, q: number, scales: number, rows: number): void {
    this.#kernels.dequantizeInt8(to, this.#hidden, q, scales, rows, this.#hidden);
  }

  /** Kernels see one segment: an offset of another would be taken for one of this. */
  #mustBeOwn(address: number): void {
    if (segmentOf(address) !== segmentOf(this.#staging)) invariantBroken(`rows in segment ${segmentOf(address)}, kernels over ${segmentOf(this.#staging)}`);
  }
}
