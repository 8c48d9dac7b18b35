/**
 * What a step asks of a model, whoever computes it: the real kernels (`Forward`) or the hash model that stands in for them (`HashForward`).
 * Rows lie in the NPU's region either way, so a step, its dispatches and its KV blocks are the same for both.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { ErrorRecord } from '../../protocol/errors.ts';
import type { PositionLogprobs, Sequence } from '../../protocol/messages.ts';
import type { TokenDispatch } from '../../xccl/exchange.ts';
import type { WireKernels } from '../../xccl/wire-format.ts';
import type { ExpertBatches } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { MaskedExperts } from '../experts/masked-experts.ts';
import type { DieLayout, ModelShape, StepLayout, StepScratch } from '../layouts/step-layout.ts';
import type { Part } from '../steps/step-parts.ts';
import type { GatherTables } from './tensor-share.ts';

/** Rows of one sequence in a step; `from`: the first position that they attend to, missing: 0; `kept`: of so many of them, the first ones, KV is not written. */
export type Span = { readonly slot: number; readonly row: number; readonly rows: number; readonly from?: number; readonly kept?: number };

/** Holds weights that were used against their sums: a slot's, the one after the last being the shared expert's; or all that are in none. @throws `WeightDamage` */
export type WeightGuard = { readonly slot: (layer: number, slot: number) => void; readonly pieces: () => void };
/** Null: nobody looks. */
export type GuardSeat = { weights: WeightGuard | null };

/** What an NPU computes for whoever asks for its experts. Offsets are within its segment. */
export interface ExpertArithmetic {
  readonly guard: GuardSeat;
  readonly config: ModelShape;
  readonly layout: DieLayout & { readonly scratch: { readonly gathered: number } };
  /** `computed`: of an NPU that has experts only. */
  readonly at: { readonly gathered: number; readonly computed?: number };
  /** What moves rows on the wire of this NPU's exchanges. */
  readonly wire: WireKernels;
  /** `count` rows, row i from row `indices[i]` (u32) of `from`. */
  gatherRows(to: number, from: number, indices: number, count: number): void;
  /** y = expert(x), `count` rows, by the weights in one of this NPU's slots; the one after the last is its shared expert. */
  expert(layer: number, slot: number, y: number, x: number, count: number): void;
}

/** Of an NPU that runs steps. A live pod loads one class of these only, so calls through it cost what direct ones do. */
export interface Arithmetic extends ExpertArithmetic {
  readonly layout: StepLayout;
  /** Offsets of the layout's scratch. */
  readonly at: StepScratch;
  /** Gates of the step at hand do without these; null: none is masked. */
  masked: MaskedExperts | null;
  /** Rows of `tokenIds` at `positions`. */
  embed(rows: number): void;
  /** Writes the rows' KV cells, then attends to all cells of each row's sequence up to its position. */
  attention(layer: number, rows: number, spans: readonly Span[]): void;
  /** Writes the rows' KV cells, and no more: for rows of a layer whose output nobody reads. */
  writeCells(layer: number, rows: number, spans: readonly Span[]): void;
  /** Leaves in `normed` what MLP, gate and experts read, for rows from `first` on. */
  postNorm(layer: number, rows: number, first?: number): void;
  /** The MLP of a dense layer. */
  dense(layer: number, rows: number): void;
  /** Leaves `experts`, ascending by id, and `expertWeights`, both from the first of the rows from `first` on; counts what is routed where. */
  gate(layer: number, rows: number, first?: number): void;
  /** For an NPU that has it. */
  sharedExpert(layer: number, rows: number, first?: number): void;
  /** Joins each row with its replies, in ascending expert id, the shared expert last. */
  combine(layer: number, rows: number, first?: number): void;
  /** Prepares `count` rows, row i being `rowOf(i)`, for the sampler, which finds them from row `first` on. `layer`: the MTP layer that they come from; missing: the last. */
  head(rowOf: (index: number) => number, count: number, first?: number, layer?: number): void;
  /** The input of an MTP layer: the rows, which the main model has left (`isMain`) or an MTP layer before, joined with what `tokenIds` says follows each of them. */
  foresee(layer: number, rows: number, isMain: boolean): void;
  /** Row `from` becomes row `to`. */
  moveRow(from: number, to: number): void;

  // ── Split over ranks: each computes its part of a table, which is whole when it was gathered (tensor-share.ts) ────────────────────────────────────

  readonly tables: GatherTables;
  /** `attention` in three, with its tables `attended` and `projected` to be gathered between them. */
  attend(layer: number, rows: number, spans: readonly Span[]): void;
  project(layer: number, rows: number): void;
  addProjected(rows: number): void;
  /** `dense` in three, the last of which is `addProjected`: `activated` is gathered, then `projected`. */
  activate(layer: number, rows: number): void;
  down(layer: number, rows: number): void;
  /** Rows of this rank's own, from `first` on, into the table `rows`; and all rows back, when it was gathered. */
  keepRows(rows: number, first: number): void;
  takeRows(rows: number): void;

  /**
   * Of an NPU that splits its output projection with others: its columns of `rows` rows of what heads put out, from `x` on, into rows from `y` on. Its own rows
   * are those of the layout's `projection`; `addProjected` adds up what all have projected.
   */
  projectColumns(layer: number, rows: number, y: number, x: number): void;

  /** The same on the scratch of a second micro-batch, where the layout has one. */
  second(): Arithmetic;
  newSampler(space: AddressSpace): TokenSampler;
  /** Null: every step is computed part by part. */
  newGraphs(batches: ExpertBatches, service: ExpertService, space: AddressSpace): StepGraphs | null;
}

/** Steps of one row for each sequence, and of its drafts, captured. */
export interface StepGraphs {
  /** More are not captured. */
  readonly rows_max: number;
  /** The parts of such a step, after which all rows are prepared for the sampler; null where so many rows are not captured. */
  partsOf(rows: number, sequences: number): readonly Part[] | null;
  /** The same of a micro-batch, whose step prepares the rows for both; as many parts for any shape, so that two of them keep in step. */
  layersOf(rows: number, sequences: number): readonly Part[] | null;
  /** A round of drafts of an MTP layer, its input's making first; as many parts for any shape. */
  roundOf(layer: number, isMain: boolean, rows: number, sequences: number): readonly Part[];
  /** What prepares the first rows of a round for the sampler, which finds them from row `first` on. */
  headOf(layer: number, rows: number, first: number): Part;
  /** Computes what a peer asks of this NPU's experts, in one call; false: nothing of it is computed, since it is not such as can be. */
  serve(dispatch: TokenDispatch, reply: number, pairs: number): boolean;
}

/** The token of a row, or the reason why there is none. */
export type Sampled = { readonly token: number; readonly error: ErrorRecord | null };

/** Chooses tokens for the sequences in an NPU's slots, from rows that `head` has prepared. */
export interface TokenSampler {
  /** `output`: tokens that the sequence had before it was preempted. */
  attach(slot: number, sequence: Sequence, output: readonly number[]): void;
  detach(slot: number): void;
  reset(): void;
  sequenceOf(slot: number): Sequence;
  /** For absolute position `position`; `generated` tokens came before it. */
  sample(slot: number, row: number, position: number, generated: number): Sampled;
  /** What would be drawn behind the drafts in `before`, from the row of a drafter; −1: nothing. Nobody is told, so it counts for nothing that is drawn later. */
  guess(slot: number, row: number, position: number, generated: number, before: readonly number[]): number;
  /** Log-probability of a token, and of the `top` best. */
  logprobs(row: number, token: number, top: number): PositionLogprobs;
}
