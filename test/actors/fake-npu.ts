/**
 * An NPU without kernels: checks each step against what it knows of its sequences, and draws tokens that tell a wrong position or a wrong sequence. It has as many
 * drafts as it may verify or fewer, three of four of them right.
 */
import type { Sequence } from '../../src/protocol/messages.ts';
import { LAST_SAMPLED, type StepEntry, type StepOutcome, type StepPlan } from '../../src/protocol/steps.ts';
import type { TierBlocks, TierCopy } from '../../src/protocol/transfers.ts';

/** The token that follows `position` tokens of a sequence: it depends on all of them. */
export const tokenAfter = (tokens: readonly number[]): number =>
  tokens.reduce((hash, token) => (Math.imul(hash ^ token, 0x01000193) >>> 0) % 50_021, 17 + tokens.length);

export function expectedOutput({ prompt, max_tokens }: Sequence): number[] {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + max_tokens) tokens.push(tokenAfter(tokens));
  return tokens.slice(prompt.length);
}

/** `position`: of what it sampled last. */
type Slot = { readonly sequence: Sequence; readonly table: number[]; shared: number; sampled: number; position: number };
/** A KV cell: its position, the token written, and a hash of the prefix that it ends, as real KV depends on all tokens before. */
type Cell = { readonly position: number; readonly token: number; readonly prefix: number };

const EMPTY_PREFIX = 17;
const extended = (prefix: number, token: number): number => Math.imul(prefix ^ token, 0x01000193) >>> 0;

/** What a step throws that reads blocks which went bad. */
export class Damage extends Error {
  readonly blocks: readonly number[];

  constructor(blocks: readonly number[]) {
    super(`blocks ${blocks.join(', ')} went bad`);
    this.blocks = blocks;
  }
}

export class FakeNpu {
  /** Blocks that went bad since they were written; and those of which that is known. */
  readonly #bad = new Set<number>();
  readonly #found = new Set<number>();
  readonly #slots = new Map<number, Slot>();
  readonly #cells = new Map<number, Cell>();
  readonly #dram = new Map<number, Cell>();
  readonly #block_size: number;
  readonly #tokens_max: number;
  /** Tokens that it was given to compute. */
  tokens = 0;
  /** Drafts that it found right, and all. */
  right = 0;
  drafted = 0;

  constructor(block_size: number, tokens_max: number) {
    this.#block_size = block_size;
    this.#tokens_max = tokens_max;
  }

  run(plan: StepPlan): StepOutcome[] {
    this.release(plan.detach);
    const total = plan.entries.reduce((sum, { tokens, drafts }) => sum + tokens.length + drafts, 0);
    if (total > this.#tokens_max || total === 0) throw new Error(`a step of ${total} tokens, the budget is ${this.#tokens_max}`);
    if (new Set(plan.entries.map(({ slot }) => slot)).size < plan.entries.length) throw new Error('a slot twice in one step');
    this.tokens += total;
    for (const entry of plan.entries) this.#attach(entry);
    const damaged = plan.entries.flatMap((entry) => {
      const slot = this.#slotOf(entry);
      const start = entry.tokens[0] === LAST_SAMPLED ? slot.position : entry.start;
      const first = start + (entry.kept ?? 0);
      return slot.table.filter((block, at) => at * this.#block_size < first && this.#bad.has(block));
    });
    if (damaged.length > 0) {
      this.#slots.clear();
      for (const block of damaged) this.#found.add(block);
      throw new Damage([...new Set(damaged)]);
    }
    return plan.entries.map((entry) => this.#compute(entry));
  }

  #compute(entry: StepEntry): StepOutcome {
    const slot = this.#slotOf(entry);
    const isLast = entry.tokens[0] === LAST_SAMPLED;
    const start = isLast ? slot.position : entry.start;
    if (start < entry.start) throw new Error(`position ${entry.start} is said to be next, ${start} is`);
    entry.tokens.forEach((token, index) => {
      if (index >= (entry.kept ?? 0)) this.#write(slot, start + index, token === LAST_SAMPLED ? slot.sampled : token);
      else if (this.#cells.get(this.#cellOf(slot, start + index))?.token !== token) throw new Error(`position ${start + index} is said to be there`);
    });
    const first = start + entry.tokens.length;
    const output = first - slot.sequence.prompt.length;
    const generated = entry.generated + start - entry.start;
    if (entry.samples && generated !== output) throw new Error(`${generated} tokens are said to be generated, ${output} are`);
    const outcome = { logprobs: null, prompt_logprobs: null, error: null };
    slot.sampled = -1;
    if (!entry.samples) return { ...outcome, token: -1, more: [], drafts: [] };
    const drafts = this.#draft(slot, first, entry.drafts);
    drafts.forEach((token, index) => {
      this.#write(slot, first + index, token);
    });
    const drawn = [tokenAfter(this.#read(slot, first))];
    while (drawn.length <= drafts.length && drafts[drawn.length - 1] === drawn.at(-1)) drawn.push(tokenAfter(this.#read(slot, first + drawn.length)));
    slot.sampled = drawn.at(-1) as number;
    slot.position = first + drawn.length - 1;
    this.drafted += drafts.length;
    this.right += drawn.length - 1;
    const [token, ...more] = drawn;
    return { ...outcome, token: token as number, more: more.map((one) => ({ token: one, logprobs: null })), drafts };
  }

  /** By chance, but the same for the same tokens: ranks of a group must agree. */
  #draft(slot: Slot, first: number, max: number): number[] {
    const tokens = this.#read(slot, first);
    const drafts: number[] = [];
    for (let chance = tokenAfter(tokens) % (max + 1); chance > 0; chance--) {
      const right = tokenAfter(tokens);
      drafts.push(right % 4 === 1 ? right + 1 : right);
      tokens.push(drafts.at(-1) as number);
    }
    return drafts;
  }

  /** Copies blocks between its HBM and its DRAM. */
  copy({ from, to }: TierCopy): void {
    to.blocks.forEach((block, index) => {
      for (let at = 0; at < this.#block_size; at++) {
        const cell = this.#tier(from).get((from.blocks[index] as number) * this.#block_size + at);
        if (cell === undefined) this.#tier(to).delete(block * this.#block_size + at);
        else this.#tier(to).set(block * this.#block_size + at, cell);
      }
    });
  }

  #tier({ tier }: TierBlocks): Map<number, Cell> {
    return tier === 'hbm' ? this.#cells : this.#dram;
  }

  release(slots: readonly number[]): void {
    for (const slot of slots) this.#slots.delete(slot);
  }

  /** Tells any change of what those blocks hold. */
  sum(blocks: readonly number[]): string {
    const cells = blocks.flatMap((block) => Array.from({ length: this.#block_size }, (_, at) => this.#cells.get(block * this.#block_size + at)));
    return JSON.stringify(cells.map((cell) => cell ?? null));
  }

  /** What it holds is lost. */
  spoil(block: number): void {
    this.#bad.add(block);
    for (let at = 0; at < this.#block_size; at++) this.#cells.delete(block * this.#block_size + at);
  }

  /** Blocks with KV that sequences read. */
  get read(): readonly number[] {
    return [...new Set([...this.#slots.values()].flatMap(({ table }) => table))].filter((block) => this.#cells.has(block * this.#block_size));
  }

  /** Takes over what another has in those blocks. */
  pull(source: FakeNpu, from: readonly number[], to: readonly number[]): void {
    from.forEach((block, index) => {
      for (let at = 0; at < this.#block_size; at++) {
        const cell = source.#cells.get(block * this.#block_size + at);
        const target = (to[index] as number) * this.#block_size + at;
        if (cell === undefined) this.#cells.delete(target);
        else this.#cells.set(target, cell);
      }
    });
  }

  reset(): void {
    this.#slots.clear();
    this.#cells.clear();
  }

  #attach({ slot, attach, first_block, blocks, shared }: StepEntry): void {
    if (attach !== null) this.#slots.set(slot, { sequence: attach, table: [], shared, sampled: -1, position: -1 });
    const { table } = this.#slotOf({ slot });
    blocks.forEach((block, index) => {
      const isShared = index < shared;
      if (!isShared && [...this.#slots.values()].some((other) => other.table.includes(block)))
        throw new Error(`block ${block} is given to slot ${slot} to write, and another reads it`);
      table[first_block + index] = block;
    });
  }

  #slotOf({ slot }: { readonly slot: number }): Slot {
    const found = this.#slots.get(slot);
    if (found === undefined) throw new Error(`slot ${slot} holds no sequence`);
    return found;
  }

  #write(slot: Slot, position: number, token: number): void {
    const block = slot.table[Math.floor(position / this.#block_size)] as number;
    // One that stands in for a block that went bad is the sequence's own.
    const isShared = position < slot.shared * this.#block_size && [...this.#slots.values()].some((other) => other !== slot && other.table.includes(block));
    if (isShared) throw new Error(`position ${position} is written, and its block is shared`);
    if (this.#found.has(block)) throw new Error(`position ${position} is written to block ${block}, which went bad`);
    if (position % this.#block_size === 0) this.#bad.delete(block);
    const before = position === 0 ? EMPTY_PREFIX : (this.#cells.get(this.#cellOf(slot, position - 1))?.prefix ?? -1);
    this.#cells.set(this.#cellOf(slot, position), { position, token, prefix: extended(before, token) });
  }

  /** What attention would see: each cell must be of its position, of the sequence's own tokens, and computed after the very same ones. */
  #read(slot: Slot, positions: number): number[] {
    const { prompt } = slot.sequence;
    let prefix = EMPTY_PREFIX;
    return Array.from({ length: positions }, (_, position) => {
      const cell = this.#cells.get(this.#cellOf(slot, position));
      prefix = extended(prefix, cell?.token ?? -1);
      if (cell === undefined || cell.position !== position || cell.prefix !== prefix || (position < prompt.length && cell.token !== prompt[position]))
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
