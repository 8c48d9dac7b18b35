/**
 * Prefixes that a DP group asks another one for, and whether that is worth it (DeepServe §4.2, §4.3): only where the copy takes no longer than computing them.
 *
 *   waits ─▶ asks, set aside ─▶ lent: pulled, set aside until it has come ─▶ waits, with its blocks
 *                  └─▶ nothing there, no room, no answer in time ─▶ waits, and is computed here
 *
 * Each sequence asks once.
 * @module
 */
import { type Address, address, idOf } from '../../src/protocol/address.ts';
import { prefixOverdue, prefixUnwanted, prefixWanted } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { type CacheCosts, isWorthFetching } from './cache-costs.ts';
import { MARK_TOKENS } from './prefix-marks.ts';
import type { RunningSequence } from './running-sequence.ts';

/** A sequence waits no longer for an answer: a group that serves answers between two steps. */
const ANSWER_MS = 250;

/** How the timer of an answer is called. */
export const answerOf = (task: Address): string => `prefix-${task}`;

const NOTHING = { sends: [], timers: [] } as const;

type Asked = { readonly running: RunningSequence /** Tokens. */; readonly known: number };

export class PrefixWants {
  readonly #self: Address;
  readonly #block_size: number;
  readonly #costs: CacheCosts | null;
  readonly #asked = new Map<Address, Asked>();
  /** Those that have not asked, and may. */
  readonly #may = new Map<Address, RunningSequence>();
  #sends: Commands['send'][] = [];
  #timers: Commands['after'][] = [];
  /** Prefixes that came, that would have taken longer to fetch than to compute, and that did not come though they were asked for. */
  hits = 0;
  refused = 0;
  missed = 0;

  /** `costs` null: it asks for nothing. */
  constructor(self: Address, block_size: number, costs: CacheCosts | null) {
    this.#self = self;
    this.#block_size = block_size;
    this.#costs = costs;
  }

  /** Sequences that wait for an answer. */
  get size(): number {
    return this.#asked.size;
  }

  /** A sequence comes: it may ask the group that probably has its prefix. */
  arrive(running: RunningSequence): void {
    const { held } = running.sequence;
    if (this.#costs !== null && held !== null && held.group !== idOf(this.#self)) this.#may.set(running.task, running);
  }

  /** It asks no more. */
  leave(running: RunningSequence): void {
    this.#may.delete(running.task);
    this.#asked.delete(running.task);
  }

  /** Asks for what follows its first `known` tokens, if anybody has it and it is worth fetching. */
  ask(running: RunningSequence, known: number): boolean {
    if (this.#costs === null || !this.#may.delete(running.task)) return false;
    const { held, cache_salt } = running.sequence;
    if (held === null) return false;
    // At least one token is computed here.
    const blocksOf = (tokens: number): number => Math.floor(Math.min(tokens, running.tokens.length - 1) / this.#block_size);
    const missing = blocksOf(held.tokens) - known / this.#block_size;
    if (missing <= 0) return false;
    if (!isWorthFetching(this.#costs, 'remote', missing, this.#block_size, known)) {
      this.refused++;
      return false;
    }
    this.#asked.set(running.task, { running, known });
    // As far as the next mark nobody knows whether it has them; it lends what it has.
    const tokens = running.tokens.slice(0, blocksOf(held.tokens + MARK_TOKENS - 1) * this.#block_size);
    this.#sends.push({ to: address('dp-group', held.group), message: prefixWanted(this.#self, running.task, cache_salt, tokens, known) });
    this.#timers.push({ id: answerOf(running.task), delay_ms: ANSWER_MS, message: prefixOverdue(running.task) });
    return true;
  }

  /** Its answer is there. Null: nobody waits for it any more. */
  answered(task: Address): Asked | null {
    const asked = this.#asked.get(task) ?? null;
    this.#asked.delete(task);
    return asked;
  }

  /** What was lent is not pulled. */
  decline(holder: Address, task: Address): void {
    this.#sends.push({ to: holder, message: prefixUnwanted(task) });
  }

  /** Whom to ask or to tell, and by when those that are asked have to answer. */
  take(): { readonly sends: readonly Commands['send'][]; readonly timers: readonly Commands['after'][] } {
    if (this.#sends.length === 0) return NOTHING;
    const taken = { sends: this.#sends, timers: this.#timers };
    this.#sends = [];
    this.#timers = [];
    return taken;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const { hits, refused, missed } = this;
    return { asked: Object.fromEntries([...this.#asked].map(([task, { known }]) => [task, known])), may_ask: [...this.#may.keys()], hits, refused, missed };
  }
}
