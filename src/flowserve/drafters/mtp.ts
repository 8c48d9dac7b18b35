/**
 * Multi-token prediction (xDeepServe §4.6; DeepSeek-V3, arXiv 2412.19437 §2.2): the checkpoint's own MTP layers draft, as the last parts of each step.
 *
 *   main model's rows ─▶ tokens drawn ─▶ foresee ─▶ MTP layer ─▶ head ─▶ draft 1 ─▶ foresee ─▶ MTP layer ─▶ head ─▶ draft 2 …
 *                        of each row the one that follows it     all rows whose next token is known        one row of each sequence
 *
 * The first round goes through all rows of the step, prompts' among them, so that the layer's cache has whatever the main model's has: the row of position i lies at
 * position i + 1 (mtp-layout.ts). What a draft that turned out wrong has left behind there is written over by the next step, before anybody sees it. The layer
 * drafts the second token and those behind it from its own hidden states; or a second layer does, which goes through the rows of the first in a round of its own:
 *
 *   … MTP layer ─▶ second layer ─▶ head ─▶ draft 1 ─▶ second layer ─▶ head ─▶ draft 2 ─▶ second layer ─▶ head ─▶ draft 3 …
 *     all rows     as many (slot-rows.ts)  from the rows of the first
 *
 * Of a layer's rows that no draft and no layer is made from, KV is written and nothing else computed: of a prompt's, all but the last one. Programs, whose rows are
 * few, compute all of them.
 *
 * Whoever goes on without drafts for a while leaves a hole in the layer's cache. When it drafts again, its rows attend to those behind the hole alone.
 *
 * Where DP domains take turns at the experts, an iteration has as many rounds more as tokens are drafted at most, one more for a second layer, with nothing in those
 * that nobody needs.
 *
 * After a step in graph mode rounds are launched as programs too. How many rows the first one has depends on which drafts were right: its programs are looked up
 * when that is known.
 *
 * Drafts are drawn as tokens are: with the penalties, bias and bans of the sequence that they would continue, and with the noise of their position.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { draftLayerOf, layersInMemory } from '../../model/moe-layers.ts';
import type { Sequence } from '../../protocol/messages.ts';
import type { StepEntry, StepOutcome } from '../../protocol/steps.ts';
import type { ExpertBatches } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { Arithmetic, Span, StepGraphs, TokenSampler } from '../forward/arithmetic.ts';
import { LOGIT_ROWS_MAX } from '../layouts/scratch-layout.ts';
import { ofSelected, SelectedRows } from '../steps/selected-rows.ts';
import { type Compute, compute, type Experts, layerParts, type Part, type Projection } from '../steps/step-parts.ts';
import type { DraftedStep, Drafter } from './drafter.ts';
import { SlotRows } from './slot-rows.ts';

/** What a drafter that computes has of its NPU. */
export type PredictorSeat = {
  readonly model: Arithmetic;
  readonly batches: ExpertBatches;
  readonly service: ExpertService;
  /** Null: nothing is captured. */
  readonly graphs: StepGraphs | null;
  readonly sampler: TokenSampler;
  readonly space: AddressSpace;
  /** Positions that a slot's KV blocks have room for. */
  readonly roomOf: (slot: number) => number;
};

/** A sequence that is drafted for: its last row, the position of the token drawn last, output tokens up to that, and how many drafts it wants. */
type Lead = {
  readonly slot: number;
  row: number;
  readonly position: number;
  readonly generated: number;
  readonly wanted: number;
  /** Its outcome tells them. */
  readonly told: number[] | undefined;
};

/** The rows of a round, in the places of the step's; `captured`: what it runs in graph mode. */
type Round = { readonly at: SelectedRows; leads: Lead[]; captured: readonly Part[] };

const NOTHING: readonly number[] = [];

export class MultiTokenPrediction implements Drafter {
  readonly #seat: PredictorSeat;
  readonly #tokens_max: number;
  readonly #words: Int32Array;
  /** Null: there is no second layer. */
  readonly #slotRows: SlotRows | null;
  /** By layer. */
  readonly #layers: (readonly Part[])[] = [];
  /** KV that is handed over layer by layer is whole then, whether or not anything was foreseen. */
  readonly #end: readonly Part[];
  /** By slot: prompt, and output that there was when it was attached. */
  readonly #known: (readonly number[])[] = [];
  /** By slot: output tokens that the sequence may have. */
  readonly #tokensOf: number[] = [];
  /** By slot: the first position of the layer's cache that can be read, in a second layer's the one behind it; −1: there is none before the next step. */
  readonly #from: number[] = [];
  /** By slot: what follows the token that was drawn last. */
  readonly #drafts: number[][] = [];

  /** `tokens`: of a sequence in one step, at most. */
  constructor(seat: PredictorSeat, tokens: number) {
    this.#seat = seat;
    this.#tokens_max = tokens;
    const { layout } = seat.model;
    this.#words = seat.space.wordsOf(layout.base);
    this.#end = [compute(() => {}, layersInMemory(seat.model.config))];
    this.#slotRows = layout.slotRows === null ? null : new SlotRows(layout, layout.slotRows, seat.space);
  }

  attach(slot: number, { prompt, max_tokens }: Sequence, output: readonly number[]): void {
    this.#tokensOf[slot] = max_tokens;
    this.#known[slot] = output.length === 0 ? prompt : [...prompt, ...output];
    this.#drafts[slot] = [];
    this.#from[slot] = 1;
    this.#slotRows?.forget(slot);
  }

  detach(slot: number): void {
    this.#known[slot] = NOTHING;
    this.#drafts[slot] = [];
  }

  reset(): void {
    this.#known.length = 0;
    this.#drafts.length = 0;
  }

  drew(slot: number): void {
    const drafts = this.#drafts[slot];
    if (drafts !== undefined) drafts.length = 0;
  }

  draft(slot: number, max: number, drafts: number[]): void {
    for (const token of (this.#drafts[slot] ?? NOTHING).slice(0, max)) drafts.push(token);
  }

  /** Its cache is to have whatever the main model's has. */
  goesThrough({ foresees }: StepEntry): boolean {
    return foresees >= 0;
  }

  tail(step: DraftedStep): readonly Part[] {
    const { config } = this.#seat.model;
    const { entries } = step.plan;
    for (const entry of entries) this.#follow(entry);
    if (!this.#hasTurns && entries.every(isLeftOut)) return this.#end;
    const round: Round = { at: new SelectedRows(this.#seat.model, this.#seat.space), leads: [], captured: [] };
    const parts: Part[] = [compute(step.begin), compute(() => this.#begin(step, round))];
    const wanted = Math.min(this.#tokens_max, Math.max(...entries.map(({ foresees }) => foresees)));
    const graphs = this.#graphsFor(step);
    for (let at = 0; at < (this.#hasTurns ? this.#tokens_max : Math.max(1, wanted)); at++) {
      const layer = draftLayerOf(config, at);
      if (at > 0) parts.push(compute(() => this.#goOn(round, at)));
      const sequences = entries.filter(({ samples, foresees }) => samples && foresees > at).length;
      const output = this.#slotRows !== null || at > 0 ? 'rows' : sequences > 0 ? 'leads' : 'nothing';
      parts.push(...this.#through(layer, round, at === 0, sequences, graphs, output));
      if (at === 0 && this.#slotRows !== null) {
        parts.push(compute(() => this.#pass(round)));
        parts.push(...this.#through(draftLayerOf(config, 1), round, false, sequences, graphs, 'nothing'));
      }
      if (sequences > 0) parts.push(...this.#readout(round, layer, at, sequences, graphs));
    }
    parts.push(...this.#end);
    return parts;
  }

  /** The rows of a round go through a layer, of which `output` is read afterwards. */
  #through(layer: number, round: Round, isMain: boolean, sequences: number, graphs: StepGraphs | null, output: 'rows' | 'leads' | 'nothing'): readonly Part[] {
    const { model } = this.#seat;
    const { at } = round;
    const join = compute(() => model.foresee(layer, at.computed, isMain));
    if (this.#hasTurns) return [join, { kind: 'turn', layer, rows: () => at.rows, spans: () => at.spans }];
    const cells = compute(() => {
      const isForAll = output === 'leads' && at.rows === round.leads.length; // the layer writes them itself
      if (at.rows > 0 && !isForAll) model.writeCells(layer, at.rows, at.spans);
    });
    if (output === 'nothing') return [join, cells];
    if (graphs !== null) return capturedRound(graphs, round, layer, isMain, sequences);
    const parts = this.#partsOf(layer).map((part) => ofSelected(part, at));
    if (output === 'rows') return [join, ...parts];
    return [join, cells, compute(() => this.#leave(round, round.leads, 0)), ...parts];
  }

  /** What the layer does not compute of a sequence it does not find later. */
  #follow({ slot, start, foresees }: StepEntry): void {
    if (foresees < 0) this.#from[slot] = -1;
    else if ((this.#from[slot] as number) < 0) this.#from[slot] = start + 1;
  }

  /** All of its domain go through as many rounds, whoever has drafts. */
  get #hasTurns(): boolean {
    return this.#seat.model.layout.turns !== null;
  }

  /** What rounds behind that step are captured with. */
  #graphsFor({ isCaptured, rows }: DraftedStep): StepGraphs | null {
    const { graphs } = this.#seat;
    return isCaptured && !this.#hasTurns && graphs !== null && rows <= graphs.rows_max ? graphs : null;
  }

  #partsOf(layer: number): readonly Part[] {
    const { model, batches, service } = this.#seat;
    this.#layers[layer] ??= layerParts(model, layer, batches, service);
    return this.#layers[layer];
  }

  /** The rows whose next token is known move up to be neighbours, and each is given that token. */
  #begin({ plan: { entries }, spans, outcomes }: DraftedStep, round: Round): void {
    const { model, roomOf } = this.#seat;
    for (const [index, entry] of entries.entries()) {
      if (entry.foresees < 0) continue;
      const { slot, start, generated, foresees } = entry;
      const outcome = outcomes[index] as StepOutcome;
      const known = rowsWithNext(entry, outcome);
      const rows = Math.min(known, roomOf(slot) - start - 1);
      if (rows <= 0) continue;
      const to = round.at.rows;
      for (let row = 0; row < rows; row++) this.#words[(model.at.tokenIds >>> 2) + to + row] = this.#nextOf(entry, outcome, row);
      round.at.take({ slot, row: (spans[index] as Span).row, rows, from: this.#seenFrom(slot, 0) }, start + 1);
      const drawn = generated + 1 + outcome.more.length;
      // The next step draws one token itself.
      const wanted = Math.min(foresees, (this.#tokensOf[slot] ?? 0) - drawn - 1);
      if (entry.samples && rows === known && outcome.error === null && wanted > 0)
        round.leads.push({ slot, row: to + rows - 1, position: start + rows, generated: drawn, wanted, told: outcome.foreseen as number[] | undefined });
    }
  }

  /** The token behind a row of an entry. */
  #nextOf({ slot, start, tokens, samples, drafts }: StepEntry, { token, more }: StepOutcome, row: number): number {
    const drawn = row + 1 - (tokens.length - drafts);
    if (samples && drawn >= 0) return drawn === 0 ? token : (more[drawn - 1]?.token as number);
    return row + 1 < tokens.length ? (tokens[row + 1] as number) : (this.#known[slot]?.[start + tokens.length] as number);
  }

  /** The second layer is given what the first has left, each row one position on. */
  #pass(round: Round): void {
    const slotRows = this.#slotRows as SlotRows;
    const { positions } = this.#seat.model.at;
    const { spans } = round.at;
    round.at.clear();
    for (const span of spans) {
      const { slot } = span;
      const row = round.at.rows;
      const rows = slotRows.pass(span, row);
      if (rows > 0) round.at.take({ slot, row, rows, from: this.#seenFrom(slot, 1) }, this.#words[(positions >>> 2) + row] as number);
    }
  }

  /** The row that has just been read, of each sequence that wants more drafts, followed by its draft. */
  #goOn(round: Round, at: number): void {
    const { model, roomOf } = this.#seat;
    const leads = round.leads.filter(({ slot, position, wanted }) => wanted > at && this.#drafts[slot]?.length === at && position + at < roomOf(slot));
    this.#leave(round, leads, at);
    for (const { slot, row } of leads) this.#words[(model.at.tokenIds >>> 2) + row] = this.#drafts[slot]?.[at - 1] as number;
  }

  /** Of a round's rows no others than these, each so many positions on, which move up to be neighbours. */
  #leave(round: Round, leads: Lead[], on: number): void {
    round.at.clear();
    round.leads = leads;
    for (const lead of leads) {
      const { slot, row, position } = lead;
      lead.row = round.at.rows;
      round.at.take({ slot, row, rows: 1, from: this.#seenFrom(slot, this.#slotRows === null ? 0 : 1) }, position + on);
    }
  }

  /** `behind`: so many layers that draft are before the one whose rows they are. */
  #seenFrom(slot: number, behind: number): number {
    return (this.#from[slot] as number) + behind;
  }

  /** As readout.ts does: [ head ─ (G) ─▶ guess ] × batches. */
  #readout(round: Round, layer: number, at: number, sequences: number, graphs: StepGraphs | null): Part[] {
    const { model } = this.#seat;
    const isSplit = model.layout.share.tp > 1;
    const batch_max = isSplit ? LOGIT_ROWS_MAX / 2 : LOGIT_ROWS_MAX;
    const parts: Part[] = [compute(() => this.#moveLeadsUp(round, at))];
    for (let from = 0, turn = 0; from < sequences; from += batch_max, turn ^= 1) {
      const first = isSplit ? turn * batch_max : 0;
      const count = (): number => Math.max(0, Math.min(batch_max, round.leads.length - from));
      const isCaptured = graphs !== null && from === 0; // programs read from the first row on
      const head = (rows: number): void => {
        if (!isCaptured || rows === 0) model.head((index) => from + index, rows, first, layer);
        else (graphs.headOf(layer, rows, first) as Compute).compute(rows, []);
      };
      parts.push(compute(() => head(count())));
      if (isSplit) parts.push({ kind: 'gather', table: 'logits', what: `'logits' of drafts from ${from} on`, first, rows: () => Math.max(1, count()) });
      parts.push(compute(() => this.#guess(round, at, from, count(), first)));
    }
    return parts;
  }

  /** To be neighbours. A second layer that kept up has had the place of the first round's. */
  #moveLeadsUp({ leads }: Round, at: number): void {
    for (const [to, lead] of leads.entries()) {
      if (at === 0 && this.#slotRows !== null) this.#slotRows.take(lead.slot, to);
      else if (lead.row > to) this.#seat.model.moveRow(lead.row, to);
      lead.row = to;
    }
  }

  #guess({ leads }: Round, at: number, from: number, count: number, first: number): void {
    for (let index = 0; index < count; index++) {
      const { slot, position, generated, told } = leads[from + index] as Lead;
      const drafts = this.#drafts[slot] as number[];
      const token = this.#seat.sampler.guess(slot, first + index, position + 1 + at, generated + at, drafts);
      if (token < 0) continue;
      drafts.push(token);
      told?.push(token);
    }
  }
}

/** Nothing is foreseen behind it. */
const isLeftOut = ({ foresees }: StepEntry): boolean => foresees < 0;

/** Rows of an entry, the first ones, behind which the token is known. */
const rowsWithNext = ({ tokens, samples, drafts }: StepEntry, { token, more }: StepOutcome): number =>
  samples ? tokens.length - drafts - (token < 0 ? 1 : -more.length) : tokens.length;

/** The parts of a round in graph mode. Which programs it launches is known when its rows are; where it asks peers in between is the same for all of them. */
function capturedRound(graphs: StepGraphs, round: Round, layer: number, isMain: boolean, sequences: number): Part[] {
  const find = compute(() => {
    round.captured = graphs.roundOf(layer, isMain, round.at.computed, round.at.spans.length);
  });
  const probable = graphs.roundOf(layer, isMain, Math.max(1, sequences), sequences);
  return [find, ...probable.map((part, index) => ofCaptured(part, index, round))];
}

function ofCaptured(part: Part, index: number, round: Round): Part {
  const { at } = round;
  switch (part.kind) {
    case 'compute':
      return { ...part, compute: () => (round.captured[index] as Compute).compute(at.computed, at.spans) };
    case 'experts': {
      const found = (): Experts => round.captured[index] as Experts;
      return {
        ...part,
        range: () => found().range(at.computed),
        route: () => found().route(at.computed),
        own: (_, share) => found().own(at.computed, share),
      };
    }
    case 'projection':
      return { ...part, rows: () => at.computed, own: () => (round.captured[index] as Projection).own(at.computed) };
    default:
      return ofSelected(part, at);
  }
}
