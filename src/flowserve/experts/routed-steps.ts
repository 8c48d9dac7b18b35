/**
 * What the gate chose in a step of an NPU, as a record of words: for whoever records routing (docs/routing-trace.md). Fields are little-endian.
 *
 *   0 kind   1 NPU   2 step   3 spans   4 rows   5 … 6 time in µs (f64)   7 phase, request, choice, position, rows of each span …
 *   then experts [layer][row][top k], of one byte each or of two, filled up to a whole word; then weights [layer][row][top k] (f32)
 *
 * Each step overwrites the table that its gates fill (`RoutingTable`), so the record is made when a step is done, before the next one begins.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import { moeLayersOf } from '../../model/moe-layers.ts';
import { assert } from '../../protocol/errors.ts';
import type { Sequence } from '../../protocol/messages.ts';
import type { StepEntry, StepPlan } from '../../protocol/steps.ts';
import { firstRowOf } from '../forward/tensor-share.ts';
import type { LayoutOptions, ModelShape, StepLayout } from '../layouts/step-layout.ts';

/** Word offsets of a record; spans follow. */
export const ROUTED = Object.freeze({ kind: 0, npu: 1, step: 2, spans: 3, rows: 4, time_us: 5, words: 7 });
/** Word offsets of a span: neighbouring rows of one choice. */
export const ROUTED_SPAN = Object.freeze({ phase: 0, request: 1, choice: 2, position: 3, rows: 4, words: 5 });
/** Nothing that msgpack writes for a record begins so. */
export const ROUTED_KIND = 1;
export const PHASES = ['prefill', 'decode'] as const;
/** Experts of a layer that one byte can name. */
const BYTE_EXPERTS = 256;

assert(ROUTED.time_us + 2 === ROUTED.words && ROUTED_SPAN.rows + 1 === ROUTED_SPAN.words, "a record's fields lie side by side");

export const expertBytes = (experts: number): 1 | 2 => (experts <= BYTE_EXPERTS ? 1 : 2);

/** Where an NPU's gates leave what they chose: u32 experts and f32 weights, [layer][row][top k] each, of all layers that have experts. */
export type RoutingTable = { readonly layers: readonly number[]; readonly experts: number; readonly weights: number; readonly layer_bytes: number };

/** Null where nobody records. */
export function layoutRouting(model: ModelShape, options: LayoutOptions, arena: Arena): RoutingTable | null {
  if (options.records_routing !== true) return null;
  const layers = moeLayersOf({ layers: model.layers, moe: model.moe });
  const layer_bytes = options.max_batch_tokens * model.moe.topK * 4;
  const table = (): number => arena.allocate(layers.length * layer_bytes);
  return { layers, experts: table(), weights: table(), layer_bytes };
}

/** Bytes from the table's beginning to the rows of a layer from `first` on. */
export const routedAt = ({ layers, layer_bytes }: RoutingTable, layer: number, first: number, topK: number): number =>
  layers.indexOf(layer) * layer_bytes + first * topK * 4;

/** Given a record: the first `bytes` of `words`, there until the next one. */
export type OnRouted = (words: Int32Array, bytes: number) => void;

type Choice = Pick<Sequence, 'request' | 'choice'> & { readonly prompt_tokens: number };

export class RoutedSteps {
  readonly #space: AddressSpace;
  readonly #onRouted: OnRouted;
  /** By NPU, then by slot. */
  readonly #choices: Choice[][] = [];
  #words = new Int32Array(1_024);
  readonly #time_us = new Float64Array(1);
  readonly #timeWords = new Int32Array(this.#time_us.buffer);

  constructor(space: AddressSpace, onRouted: OnRouted) {
    this.#space = space;
    this.#onRouted = onRouted;
  }

  /** A step of an NPU is done. */
  take({ topK, experts }: ModelShape['moe'], { npu, share, routing }: StepLayout, plan: StepPlan, time_us: number): void {
    this.#choices[npu] ??= [];
    const choices = this.#choices[npu] as Choice[];
    let all = 0;
    for (const { slot, attach, tokens } of plan.entries) {
      if (attach !== null) choices[slot] = { request: attach.request, choice: attach.choice, prompt_tokens: attach.prompt.length };
      all += tokens.length;
    }
    // Ranks of a DP group deal the rows out: each one's gate sees its own (tensor-share.ts).
    const [first, end] = [firstRowOf(all, share.rank, share.tp), firstRowOf(all, share.rank + 1, share.tp)];
    if (routing === null || routing.layers.length === 0 || first === end) return;
    const pairs = routing.layers.length * (end - first) * topK;
    const wide = expertBytes(experts);
    const idWords = Math.ceil((pairs * wide) / 4);
    this.#reserve(ROUTED.words + 2 * plan.entries.length * ROUTED_SPAN.words + idWords + pairs);
    const words = this.#words;
    words[ROUTED.kind] = ROUTED_KIND;
    words[ROUTED.npu] = npu;
    words[ROUTED.step] = plan.step;
    words[ROUTED.rows] = end - first;
    this.#time_us[0] = time_us;
    words.set(this.#timeWords, ROUTED.time_us);
    const ids = this.#writeSpans(plan, choices, first, end);
    words.fill(0, ids, ids + idWords);
    const [narrow, pairIds] = [
      wide === 1 ? new Uint8Array(words.buffer, ids * 4) : new Uint16Array(words.buffer, ids * 4),
      this.#space.wordsOf(routing.experts),
    ];
    const weights = this.#space.wordsOf(routing.weights);
    const ofLayer = (end - first) * topK;
    let pair = 0;
    for (const layer of routing.layers) {
      const skip = routedAt(routing, layer, first, topK);
      const from = (offsetOf(routing.experts) + skip) >>> 2;
      const weightsFrom = (offsetOf(routing.weights) + skip) >>> 2;
      for (let index = 0; index < ofLayer; index++) {
        narrow[pair + index] = pairIds[from + index] as number;
        words[ids + idWords + pair + index] = weights[weightsFrom + index] as number;
      }
      pair += ofLayer;
    }
    this.#onRouted(words, (ids + idWords + pairs) * 4);
  }

  /** Those that have rows from `first` up to `end`, not including it. Returns where the next field goes. */
  #writeSpans({ entries }: StepPlan, choices: readonly Choice[], first: number, end: number): number {
    const words = this.#words;
    let at: number = ROUTED.words;
    const write = (phase: (typeof PHASES)[number], { request, choice }: Choice, position: number, rows: number): void => {
      words[at + ROUTED_SPAN.phase] = PHASES.indexOf(phase);
      words[at + ROUTED_SPAN.request] = request;
      words[at + ROUTED_SPAN.choice] = choice;
      words[at + ROUTED_SPAN.position] = position;
      words[at + ROUTED_SPAN.rows] = rows;
      at += ROUTED_SPAN.words;
    };
    let row = 0;
    for (const entry of entries) {
      const { slot, start, tokens } = entry;
      const choice = choices[slot];
      assert(choice, `slot ${slot} holds no choice`);
      const [from, to] = [Math.max(row, first), Math.min(row + tokens.length, end)];
      const decodes = Math.max(from, row + firstDecoded(entry, choice));
      if (from < Math.min(decodes, to)) write('prefill', choice, start + from - row, Math.min(decodes, to) - from);
      if (decodes < to) write('decode', choice, start + decodes - row, to - decodes);
      row += tokens.length;
    }
    words[ROUTED.spans] = (at - ROUTED.words) / ROUTED_SPAN.words;
    return at;
  }

  #reserve(words: number): void {
    if (this.#words.length < words) this.#words = new Int32Array(2 * words);
  }
}

/** Of an entry's rows the first that is of a token drawn in the step before, or of a draft behind it; what else there is before them is computed again. */
function firstDecoded({ start, tokens, samples, drafts }: StepEntry, { prompt_tokens }: Choice): number {
  const last = tokens.length - 1 - drafts;
  return samples && start + last >= prompt_tokens ? last : tokens.length;
}
