/**
 * A step as the list of its parts: kernel calls that need nobody, and between them the points where other NPUs are asked and may have to be waited for.
 * The step program goes through the list, whoever made it: here it is made of a model's own methods, one after the other, as prefill runs.
 *
 *   embed ─▶ [attention ─▶ dense | gate ─▶ ( dispatch ─▶ own experts, shared expert ─▶ wait ) ─▶ combine] × layers
 *
 * Split over ranks (tensor-share.ts), with G where a table is gathered:
 *
 *   embed ─▶ [heads ─ G ─▶ projection ─ G ─▶ gate and up ─ G ─▶ down ─ G | own rows: gate ─▶ ( dispatch … wait ) ─▶ combine ─ G] × layers
 *
 * Where NPUs of several DP groups split their output projection (output-projection.ts):
 *
 *   embed ─▶ [heads ─▶ ( dispatch ─▶ own columns ─▶ wait ) ─▶ dense | gate ─▶ ( dispatch … wait ) ─▶ combine] × layers
 *
 * Where only some of its rows are read in the end, the last layer has fewer of them (read-rows.ts).
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import { isMoeLayer } from '../../model/moe-layers.ts';
import { assert } from '../../protocol/errors.ts';
import type { ExpertBatches, Share } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { Arithmetic, Span } from '../forward/arithmetic.ts';
import { firstRowOf, type Gathered, type Range } from '../forward/tensor-share.ts';
import type { ProjectedColumns } from '../layouts/step-layout.ts';

/** Kernel calls on a step's rows, none of which waits. Afterwards the rows' KV of so many layers, the first ones, is there; 0: no more than before. */
export type Compute = { readonly kind: 'compute'; readonly compute: (rows: number, spans: readonly Span[]) => void; readonly kv_layers: number };

/** The experts of a layer: the next part finds all answers in `replies`. */
export type Experts = {
  readonly kind: 'experts';
  readonly layer: number;
  /** Of a step of so many rows, those that this NPU asks the experts for. */
  readonly range: (rows: number) => Range;
  /** Sorts the gate's choice, and returns each NPU's share. */
  readonly route: (rows: number) => readonly Share[];
  /** This NPU's share, if it has one, and the shared expert: what is done while peers compute theirs. */
  readonly own: (rows: number, share: Share | undefined) => void;
};

/** The ranks' parts of a table: the next part finds it whole. */
export type Gather = {
  readonly kind: 'gather';
  readonly table: Gathered;
  /** In errors. */
  readonly what: string;
  /** Its first row, and how many it has in a step of so many rows. */
  readonly first: number;
  readonly rows: (rows: number) => number;
};

/** The output projection of a layer: the next part finds it whole. */
export type Projection = {
  readonly kind: 'projection';
  readonly layer: number;
  /** In a step of so many rows, those that are projected. */
  readonly rows: (rows: number) => number;
  /** This NPU's columns: what is done while peers compute theirs. */
  readonly own: (rows: number) => void;
};

/** A whole layer of an NPU whose domain takes turns: it has the round of its experts, with nothing where there are no rows. */
export type Turn = { readonly kind: 'turn'; readonly layer: number; readonly rows: () => number; readonly spans: () => readonly Span[] };

export type Part = Compute | Experts | Gather | Projection | Turn;

const all = (rows: number): number => rows;

/** Each kernel called in its turn, for steps of any shape. `layers`: the first ones; missing: all. */
export function partsInTurn(model: Arithmetic, batches: ExpertBatches, service: ExpertService, layers = model.config.layers): readonly Part[] {
  const parts: Part[] = [compute((rows) => model.embed(rows))];
  for (let layer = 0; layer < layers; layer++) parts.push(...layerParts(model, layer, batches, service));
  return parts;
}

/** Of one layer. */
export function layerParts(model: Arithmetic, layer: number, batches: ExpertBatches, service: ExpertService): Part[] {
  const hasExperts = model.config.moe.experts > 0 && isMoeLayer(model.config, layer);
  if (model.layout.projection !== null) return projectionLayer(model, layer, hasExperts ? moeParts(model, layer, batches, service) : null);
  if (model.layout.share.tp > 1)
    return [...attentionOfRank(model, layer), ...(hasExperts ? expertsOfRank(model, layer, batches, service) : denseOfRank(model, layer))];
  return hasExperts ? expertLayer(model, layer, batches, service) : [denseLayer(model, layer)];
}

export const compute = (call: Compute['compute'], kv_layers = 0): Compute => ({ kind: 'compute', compute: call, kv_layers });

const denseLayer = (model: Arithmetic, layer: number): Part =>
  compute((rows, spans) => {
    model.attention(layer, rows, spans);
    model.postNorm(layer, rows);
    model.dense(layer, rows);
  }, layer + 1);

const expertLayer = (model: Arithmetic, layer: number, batches: ExpertBatches, service: ExpertService): Part[] => [
  compute((rows, spans) => {
    model.attention(layer, rows, spans);
    model.postNorm(layer, rows);
    model.gate(layer, rows);
  }, layer + 1),
  ...moeParts(model, layer, batches, service),
];

/** A layer's experts, for rows that the gate has seen. */
const moeParts = (model: Arithmetic, layer: number, batches: ExpertBatches, service: ExpertService): Part[] => [
  {
    kind: 'experts',
    layer,
    range: (rows) => ({ first: 0, count: rows }),
    route: (rows) => batches.sort(layer, rows),
    own: (rows, share) => {
      if (share !== undefined) service.compute(batches.describe(share, layer), batches.replyAddress(share), share.pairs);
      if (model.layout.sharedNpu === null) model.sharedExpert(layer, rows);
    },
  },
  compute((rows) => model.combine(layer, rows)),
];

/** A layer of an NPU that projects with others; `experts`: null for a dense layer. */
function projectionLayer(model: Arithmetic, layer: number, experts: Part[] | null): Part[] {
  const { projection } = model.layout;
  assert(projection, 'the output projection is not split');
  const { share, columns, attended } = projection;
  const { target, skip } = columns[share.rank] as ProjectedColumns;
  return [
    compute((rows, spans) => model.attend(layer, rows, spans), layer + 1),
    { kind: 'projection', layer, rows: all, own: (rows) => model.projectColumns(layer, rows, offsetOf(target - skip), offsetOf(attended)) },
    compute((rows) => {
      model.addProjected(rows);
      model.postNorm(layer, rows);
      if (experts === null) model.dense(layer, rows);
      else model.gate(layer, rows);
    }),
    ...(experts ?? []),
  ];
}

// ── Of one rank among several ───────────────────────────────────────────────────────────────────────────────────────

const gather = (table: Gathered, layer: number): Gather => ({ kind: 'gather', table, what: `'${table}' of layer ${layer}`, first: 0, rows: all });

const attentionOfRank = (model: Arithmetic, layer: number): Part[] => [
  compute((rows, spans) => model.attend(layer, rows, spans), layer + 1),
  gather('attended', layer),
  compute((rows) => model.project(layer, rows)),
  gather('projected', layer),
  compute((rows) => model.addProjected(rows)),
];

const denseOfRank = (model: Arithmetic, layer: number): Part[] => [
  compute((rows) => {
    model.postNorm(layer, rows);
    model.activate(layer, rows);
  }),
  gather('activated', layer),
  compute((rows) => model.down(layer, rows)),
  gather('projected', layer),
  compute((rows) => model.addProjected(rows)),
];

/** The rows are dealt out: each rank is the one that asks the experts for its own. */
function expertsOfRank(model: Arithmetic, layer: number, batches: ExpertBatches, service: ExpertService): Part[] {
  const { rank, tp } = model.layout.share;
  const firstOf = (rows: number): number => firstRowOf(rows, rank, tp);
  const ownOf = (rows: number): number => firstRowOf(rows, rank + 1, tp) - firstOf(rows);
  return [
    compute((rows) => {
      model.postNorm(layer, ownOf(rows), firstOf(rows));
      model.gate(layer, ownOf(rows), firstOf(rows));
    }),
    {
      kind: 'experts',
      layer,
      range: (rows) => ({ first: firstOf(rows), count: ownOf(rows) }),
      route: (rows) => batches.sort(layer, ownOf(rows), firstOf(rows)),
      own: (rows, share) => {
        if (share !== undefined) service.compute(batches.describe(share, layer), batches.replyAddress(share), share.pairs);
        model.sharedExpert(layer, ownOf(rows), firstOf(rows));
      },
    },
    compute((rows) => {
      model.combine(layer, ownOf(rows), firstOf(rows));
      model.keepRows(ownOf(rows), firstOf(rows));
    }),
    gather('rows', layer),
    compute((rows) => model.takeRows(rows)),
  ];
}
