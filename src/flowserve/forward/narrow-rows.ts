/**
 * Rows on their way to experts and back where they travel in INT8 (xDeepServe §3.2, dispatch step 2; §4.7). What narrows them is the model's arithmetic, on whichever
 * NPU the expert is: the gate's narrows what experts read, the expert's what it answers, before anybody asks where a row goes. From there on the form is exact
 * (kernels/assembly/wire.ts): a row that travels in it and one that stays are the same to the last bit.
 *
 *   attention    normed = narrow(norm(x))   ─ as INT8 ─▶   x = widened                      expert
 *                replies = widened          ◀─ as INT8 ─   y = narrow(expert(x))
 *
 * An attention NPU's dispatch area begins with the rows that it sends, a block as the wire has it (xccl/wire-format.ts) of as many rows as a step has at most.
 * @module
 */
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import type { Numerics, WireDtype } from '../../protocol/numerics.ts';
import type { Endpoint } from '../../xccl/endpoint.ts';
import { Exchange, type ExchangeOptions } from '../../xccl/exchange.ts';
import { RowCodec, stagingBytes, type WireKernels } from '../../xccl/wire-format.ts';
import type { ExpertArithmetic } from './arithmetic.ts';

/** In which rows go to experts, and come back. */
export type RowFormats = { readonly there: 'f32' | 'int8'; readonly back: 'f32' | 'int8' };

const rowFormatOf = (dtype: WireDtype = 'auto'): 'f32' | 'int8' => (dtype === 'int8' ? 'int8' : 'f32');
export const rowFormatsOf = ({ dispatch_dtype, combine_dtype }: Numerics): RowFormats => ({
  there: rowFormatOf(dispatch_dtype),
  back: rowFormatOf(combine_dtype),
});

/** A step's rows, or those of one expert, between two calls of kernels; addresses are 0 where none travel in INT8. */
export type NarrowPlace = RowFormats & { readonly scales: number; readonly rows: number; readonly staging: number };

export function layoutNarrow(numerics: Numerics, rows: number, row_bytes: number, arena: Arena): NarrowPlace {
  const formats = rowFormatsOf(numerics);
  if (formats.there === 'f32' && formats.back === 'f32') return { ...formats, scales: 0, rows: 0, staging: 0 };
  const hidden = row_bytes / 4;
  return { ...formats, scales: arena.allocate(4 * rows), rows: arena.allocate(rows * hidden), staging: arena.allocate(stagingBytes(hidden)) };
}

/** Of the dispatch area, where row `first` of a step is sent from. */
export const sentFrom = ({ sentScales, sent }: { readonly sentScales: number; readonly sent: number }, first: number, hidden: number) => ({
  scales: sentScales + 4 * first,
  rows: sent + first * hidden,
});

/** Rows from `x` on as they are after they have travelled; at `scales` and `rows` as they travel. */
export function narrowRows(
  kernels: Pick<WireKernels, 'quantizeInt8' | 'dequantizeInt8'>,
  { scales, rows }: Pick<NarrowPlace, 'scales' | 'rows'>,
  x: number,
  count: number,
  hidden: number,
): void {
  kernels.quantizeInt8(offsetOf(rows), offsetOf(scales), x, hidden, count, hidden);
  kernels.dequantizeInt8(x, hidden, offsetOf(rows), offsetOf(scales), count, hidden);
}

/** The exchange of an NPU whose rows travel as its layout has it. */
export function newExchange(endpoint: Endpoint, { layout, wire }: ExpertArithmetic, options: ExchangeOptions): Exchange {
  const { row_bytes, narrow } = layout;
  if (narrow.staging === 0) return new Exchange(endpoint, row_bytes, options);
  const codec = new RowCodec(endpoint.space, wire, row_bytes / 4, narrow.staging);
  return new Exchange(endpoint, row_bytes, { ...options, rows: { there: narrow.there, back: narrow.back, codec } });
}

/** Rows of a dispatch, as the NPU that has the experts takes them in and leaves what came of them. */
export class DispatchedRows {
  readonly #forward: ExpertArithmetic;
  readonly #space: AddressSpace;

  constructor(forward: ExpertArithmetic, space: AddressSpace) {
    this.#forward = forward;
    this.#space = space;
  }

  /** They come and go as INT8, unless they are the NPU's own. */
  get formats(): RowFormats {
    return this.#forward.layout.narrow;
  }

  /** Row i is row `pairRows[i]` of those from `rowsAddress` on; `words` and `pairRows`: of the segment they lie in. `to`: an offset. */
  gather(to: number, rowsAddress: number, words: Int32Array, pairRows: number, count: number, format: 'f32' | 'int8'): void {
    if (count === 0) return;
    if (format === 'int8') this.#gatherNarrow(to, rowsAddress, words, pairRows, count);
    else if (this.#isNear(rowsAddress)) this.#forward.gatherRows(to, offsetOf(rowsAddress), pairRows, count);
    else this.#copyRows(this.#segment + to, rowsAddress, words, pairRows, count, this.#forward.layout.row_bytes);
  }

  /** `count` rows of an answer of `pairs`, from its `first` on. `from`: an offset. */
  leave(reply: number, pairs: number, first: number, from: number, count: number): void {
    const hidden = this.#forward.layout.row_bytes / 4;
    this.#forward.wire.quantizeInt8(reply + 4 * pairs + first * hidden, reply + 4 * first, from, hidden, count, hidden);
  }

  #gatherNarrow(to: number, rowsAddress: number, words: Int32Array, pairRows: number, count: number): void {
    const { wire, layout } = this.#forward;
    const { scales, rows } = layout.narrow;
    const hidden = layout.row_bytes / 4;
    const sent = rowsAddress + 4 * layout.rows_max;
    if (this.#isNear(rowsAddress)) {
      wire.gatherRows(offsetOf(scales), offsetOf(rowsAddress), pairRows, count, 4);
      wire.gatherRows(offsetOf(rows), offsetOf(sent), pairRows, count, hidden);
    } else {
      this.#copyRows(scales, rowsAddress, words, pairRows, count, 4);
      this.#copyRows(rows, sent, words, pairRows, count, hidden);
    }
    wire.dequantizeInt8(to, hidden, offsetOf(rows), offsetOf(scales), count, hidden);
  }

  #copyRows(to: number, from: number, words: Int32Array, pairRows: number, count: number, bytes: number): void {
    for (let pair = 0; pair < count; pair++) this.#space.copy(to + pair * bytes, from + (words[(pairRows >>> 2) + pair] as number) * bytes, bytes);
  }

  get #segment(): number {
    const { base } = this.#forward.layout;
    return base - offsetOf(base);
  }

  #isNear(address: number): boolean {
    return segmentOf(address) === segmentOf(this.#forward.layout.base);
  }
}
