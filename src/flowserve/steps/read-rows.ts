/**
 * Of a step's rows those that somebody reads when all layers are computed: what samples and the drafts behind it, prompt tokens' log-probabilities (readout.ts), whatever a
 * drafter goes through; and each sequence's last one, which the step's digest is made of. Where that is not all of them, the last layer writes the KV of all, as it
 * does anyway, and computes the others no further. What is left of a sequence are its rows from the first one on that is read.
 *
 *   embed ─▶ [layer, all rows] × layers − 1 ─▶ cells of all rows ─▶ select ─▶ layer, the rows that are read ─▶ (readout)
 *
 * That goes for steps of ranks, all of which know the same plan, and so the same rows; for output projections that NPUs of several groups split, whose rows travel; and
 * for experts elsewhere, who are asked for fewer pairs, and count no others. All rows go through the last layer
 * - of decode steps: all are read, and so are those of captured programs;
 * - of steps of two micro-batches, by turns or as they flow: how many rows each has is dealt out at the beginning, for all layers;
 * - where the gates' choices are recorded, since a record has all rows of all layers.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { ExpertBatches } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { Arithmetic, Span } from '../forward/arithmetic.ts';
import { ofSelected, SelectedRows } from './selected-rows.ts';
import { compute, layerParts, type Part, partsInTurn } from './step-parts.ts';

export class ReadRows {
  /** Of a step some of whose rows are read. */
  readonly parts: readonly Part[];
  readonly #positions: Int32Array;
  readonly #selected: SelectedRows;
  /** Of the step at hand, the rows that are read. */
  #read: readonly Span[] = [];

  constructor(model: Arithmetic, batches: ExpertBatches, service: ExpertService, space: AddressSpace) {
    const selected = new SelectedRows(model, space);
    const last = model.config.layers - 1;
    const cells = compute((rows, spans) => {
      model.writeCells(last, rows, spans);
      this.#select();
    }, model.config.layers);
    // Its cells are there already, all of them.
    const ofLast = layerParts(model, last, batches, service).map((part) => ofSelected(part.kind === 'compute' ? { ...part, kv_layers: 0 } : part, selected));
    this.parts = [...partsInTurn(model, batches, service, last), cells, ...ofLast];
    this.#positions = space.wordsOf(model.layout.base).subarray(model.at.positions >>> 2);
    this.#selected = selected;
  }

  /**
   * Where the rows of a step lie once its last layer is computed, `spans` being where they lie before; null: all are read, and none moves. `firstRead`: of a span's
   * rows, by its index, the first one that is read; as many as it has: none is.
   */
  of(spans: readonly Span[], firstRead: (index: number) => number): readonly Span[] | null {
    const skippedOf = ({ rows }: Span, index: number): number => Math.min(firstRead(index), rows - 1);
    if (spans.every((span, index) => skippedOf(span, index) === 0)) return null;
    let row = 0;
    const left: Span[] = [];
    this.#read = spans.map((span, index) => {
      const skipped = skippedOf(span, index);
      const rows = span.rows - skipped;
      left.push({ slot: span.slot, row, rows });
      row += rows;
      // Their cells are written with all others', and not again.
      return { slot: span.slot, row: span.row + skipped, rows, kept: rows };
    });
    return left;
  }

  #select(): void {
    this.#selected.clear();
    for (const span of this.#read) this.#selected.take(span, this.#positions[span.row] as number);
  }
}
