/**
 * A step as the list of its parts: kernel calls that need nobody, and between them the points where other NPUs are asked and may have to be waited for.
 * The step program goes through the list, whoever made it: here it is made of a model's own methods, one after the other, as prefill runs.
 *
 *   embed ─▶ [attention ─▶ dense | gate ─▶ ( dispatch ─▶ own experts, shared expert ─▶ wait ) ─▶ combine] × layers
 * @module
 */
import { isMoeLayer } from '../model/moe-layers.ts';
import type { Arithmetic, Span } from './arithmetic.ts';
import type { ExpertBatches, Share } from './expert-batches.ts';

/** Kernel calls on a step's rows, none of which waits. */
export type Compute = { readonly kind: 'compute'; readonly compute: (rows: number, spans: readonly Span[]) => void };

/** The experts of a layer: the next part finds all answers in `replies`. */
export type Experts = {
  readonly kind: 'experts';
  readonly layer: number;
  /** Sorts the gate's choice, and returns each NPU's share. */
  readonly route: (rows: number) => readonly Share[];
  /** This NPU's share, if it has one, and the shared expert: what is done while peers compute theirs. */
  readonly own: (rows: number, share: Share | undefined) => void;
};

export type Part = Compute | Experts;

/** Each kernel called in its turn, for steps of any shape. */
export function partsInTurn(model: Arithmetic, batches: ExpertBatches): readonly Part[] {
  const { layers, moe } = model.config;
  const parts: Part[] = [{ kind: 'compute', compute: (rows) => model.embed(rows) }];
  for (let layer = 0; layer < layers; layer++) {
    if (moe.experts === 0 || !isMoeLayer(model.config, layer)) {
      parts.push({
        kind: 'compute',
        compute: (rows, spans) => {
          model.attention(layer, rows, spans);
          model.postNorm(layer, rows);
          model.dense(layer, rows);
        },
      });
      continue;
    }
    parts.push(
      {
        kind: 'compute',
        compute: (rows, spans) => {
          model.attention(layer, rows, spans);
          model.postNorm(layer, rows);
          model.gate(layer, rows);
        },
      },
      {
        kind: 'experts',
        layer,
        route: (rows) => batches.sort(rows),
        own: (rows, share) => {
          if (share !== undefined) batches.compute(batches.describe(share, layer), batches.replyAddress(share), share.pairs);
          model.sharedExpert(layer, rows);
        },
      },
      { kind: 'compute', compute: (rows) => model.combine(layer, rows) },
    );
  }
  return parts;
}
