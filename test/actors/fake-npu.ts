/** An NPU without kernels: checks each step against what it knows of its sequences, and draws tokens that tell a wrong position or a wrong sequence. */
import type { Sequence, StepOutcome, StepPlan } from '../../src/protocol/messages.ts';

export const GREEDY: Sequence['sampling'] = {
  temperature: 0,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  seed: 0,
  min_tokens: 0,
  stop_token_ids: [],
  logprobs: -1,
  prompt_logprobs: -1,
  bias_ids: [],
  bias_values: [],
  presence_penalty: 0,
  frequency_penalty: 0,
  repetition_penalty: 1,
};

/** The token that follows `position` tokens of a sequence: it depends on all of them. */
export const tokenAfter = (tokens: readonly number[]): number =>
  tokens.reduce((hash, token) => (Math.imul(hash ^ token, 0x01000193) >>> 0) % 50_021, 17 + tokens.length);

export function expectedOutput({ prompt, max_tokens }: Sequence): number[] {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + max_tokens) tokens.push(tokenAfter(tokens));
  return tokens.slice(prompt.length);
}

type Slot = { readonly sequence: Sequence; readonly table: number[] };
/** A KV cell: the token written and its position; stale or foreign ones are seen. */
type Cell = { readonly position: number; readonly token: number; readonly owner: Sequence };

export class FakeNpu {
  readonly #slots = new Map<number, Slot>();
  readonly #cells = new Map<number, Cell>();
  readonly #block_size: number;
  readonly #tokens_max: number;

  constructor(block_size: number, tokens_max: number) {
    this.#block_size = block_size;
    this.#tokens_max = tokens_max;
  }

  run(plan: StepPlan): StepOutcome[] {
    this.release(plan.detach);
    const total = plan.entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
    if (total > this.#tokens_max || total === 0) throw new Error(`a step of ${total} tokens, the budget is ${this.#tokens_max}`);
    if (new Set(plan.entries.map(({ slot }) => slot)).size < plan.entries.length) throw new Error('a slot twice in one step');
    return plan.entries.map((entry) => {
      if (entry.attach !== null) this.#slots.set(entry.slot, { sequence: entry.attach, table: [] });
      const slot = this.#slots.get(entry.slot);
      if (slot === undefined) throw new Error(`slot ${entry.slot} holds no sequence`);
      entry.blocks.forEach((block, index) => {
        slot.table[entry.first_block + index] = block;
      });
      entry.tokens.forEach((token, index) => {
        this.#cells.set(this.#cellOf(slot, entry.start + index), { position: entry.start + index, token, owner: slot.sequence });
      });
      return {
        token: entry.samples ? tokenAfter(this.#read(slot, entry.start + entry.tokens.length)) : -1,
        logprobs: null,
        prompt_logprobs: null,
        error: null,
      };
    });
  }

  release(slots: readonly number[]): void {
    for (const slot of slots) this.#slots.delete(slot);
  }

  reset(): void {
    this.#slots.clear();
  }

  /** What attention would see: each cell must be the sequence's own and of its position. */
  #read(slot: Slot, positions: number): number[] {
    return Array.from({ length: positions }, (_, position) => {
      const cell = this.#cells.get(this.#cellOf(slot, position));
      if (cell === undefined || cell.position !== position || cell.owner !== slot.sequence)
        throw new Error(`position ${position} reads a cell that is stale or another's`);
      return cell.token;
    });
  }

  #cellOf(slot: Slot, position: number): number {
    const block = slot.table[Math.floor(position / this.#block_size)];
    if (block === undefined) throw new Error(`position ${position} has no KV block`);
    return block * this.#block_size + (position % this.#block_size);
  }
}
