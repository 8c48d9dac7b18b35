/**
 * Prompt lookup (A. Saxena, "Prompt Lookup Decoding", 2023; vLLM's `ngram`): what followed the last time that the sequence came by its last tokens probably
 * follows again. It computes nothing, so it drafts for every model; it is right where a text quotes its prompt or repeats itself.
 * @module
 */
import type { Sequence } from '../../protocol/messages.ts';
import type { Part } from '../steps/step-parts.ts';
import type { Drafter } from './drafter.ts';

/** Tokens that must be found again: at most, and at least. */
export type LookupLimits = { readonly lookup_max: number; readonly lookup_min: number };

const NO_PARTS: readonly Part[] = [];
/** Room for output at first. */
const OUTPUT_ROOM = 64;

type History = { tokens: Int32Array; length: number };

export class PromptLookup implements Drafter {
  readonly #limits: LookupLimits;
  /** By slot; null: it is not drafted for. */
  readonly #histories: (History | null)[] = [];

  constructor(limits: LookupLimits) {
    this.#limits = limits;
  }

  attach(slot: number, { prompt, drafts }: Sequence, output: readonly number[]): void {
    if (!drafts) {
      this.#histories[slot] = null;
      return;
    }
    const length = prompt.length + output.length;
    const tokens = new Int32Array(length + OUTPUT_ROOM);
    tokens.set(prompt);
    tokens.set(output, prompt.length);
    this.#histories[slot] = { tokens, length };
  }

  detach(slot: number): void {
    this.#histories[slot] = null;
  }

  reset(): void {
    this.#histories.length = 0;
  }

  drew(slot: number, token: number): void {
    const history = this.#histories[slot];
    if (history === null || history === undefined) return;
    if (history.length === history.tokens.length) {
      const larger = new Int32Array(2 * history.length);
      larger.set(history.tokens);
      history.tokens = larger;
    }
    history.tokens[history.length++] = token;
  }

  draft(slot: number, max: number, drafts: number[]): void {
    const history = this.#histories[slot];
    if (history === null || history === undefined) return;
    const { tokens, length } = history;
    const end = this.#endOfMatch(tokens, length);
    const before = drafts.length;
    // What repeats itself at the end goes on to do so.
    for (let at = end; end > 0 && at < end + max; at++) drafts.push(at < length ? (tokens[at] as number) : (drafts[before + at - length] as number));
  }

  goesThrough(): boolean {
    return false;
  }

  tail(): readonly Part[] {
    return NO_PARTS;
  }

  /** Behind the last of the places whose tokens agree with the sequence's last ones, those where most of them do; 0: none. */
  #endOfMatch(tokens: Int32Array, length: number): number {
    const { lookup_max, lookup_min } = this.#limits;
    const last = tokens[length - 1];
    let best = 0;
    let longest = lookup_min - 1;
    for (let at = length - 2; at >= lookup_min - 1 && longest < lookup_max; at--) {
      if (tokens[at] !== last) continue;
      let agreeing = 1;
      while (agreeing < lookup_max && agreeing <= at && tokens[at - agreeing] === tokens[length - 1 - agreeing]) agreeing++;
      if (agreeing <= longest) continue;
      longest = agreeing;
      best = at + 1;
    }
    return best;
  }
}
