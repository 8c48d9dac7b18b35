/**
 * Rows that are computed further where nobody reads what would come of the others: in the last layer, those that tokens and log-probabilities are read from
 * (read-rows.ts; llama.cpp's `inp_out_ids`); in an MTP layer, those that drafts are made from. They move up to be neighbours, in the places of a step's first rows:
 * for kernels, and for whoever is asked, they are a step of fewer rows.
 *
 *   step      | a0 a1 a2 a3 | b0 b1 b2 | c0 |      KV of all of them is written before
 *   selected  | a3 b1 b2 c0 |                      each attends to all cells before its position, as it would among the others
 *
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { Arithmetic, Span } from '../forward/arithmetic.ts';
import { writeSpan } from '../layouts/step-layout.ts';
import type { Part } from './step-parts.ts';

export class SelectedRows {
  readonly #model: Arithmetic;
  readonly #words: Int32Array;
  rows = 0;
  spans: Span[] = [];

  constructor(model: Arithmetic, space: AddressSpace) {
    this.#model = model;
    this.#words = space.wordsOf(model.layout.base);
  }

  /** None is. */
  clear(): void {
    this.rows = 0;
    this.spans = [];
  }

  /** Those of a sequence, which lie behind all that are selected already; the first one is at `position`. */
  take({ row: from, ...span }: Span, position: number): void {
    const { at, layout } = this.#model;
    const to = this.rows;
    if (from < to) invariantBroken(`row ${from} is to become row ${to}, and lies before it`);
    for (let row = 0; row < span.rows; row++) {
      if (from > to) this.#model.moveRow(from + row, to + row);
      this.#words[(at.positions >>> 2) + to + row] = position + row;
    }
    const { address, blocks_max } = layout.blockTables;
    const selected: Span = { ...span, row: to };
    writeSpan(this.#words, at, this.spans.length, selected, offsetOf(address) + span.slot * blocks_max * 4);
    this.spans.push(selected);
    this.rows += span.rows;
  }

  /** Where nothing is left to compute, one row is, for nobody: ranks that gather it all do so. */
  get computed(): number {
    return Math.max(1, this.rows);
  }
}

/** A part for the rows that are selected when it is run, whatever the step has. */
export function ofSelected(part: Part, selected: SelectedRows): Part {
  switch (part.kind) {
    case 'compute':
      return { ...part, compute: () => part.compute(selected.computed, selected.spans) };
    case 'experts':
      return {
        ...part,
        range: () => part.range(selected.computed),
        route: () => part.route(selected.computed),
        own: (_, share) => part.own(selected.computed, share),
      };
    case 'gather':
      return { ...part, rows: () => part.rows(selected.computed) };
    case 'turn':
      return part;
    case 'projection':
      return { ...part, rows: () => selected.computed, own: () => part.own(selected.computed) };
  }
}
