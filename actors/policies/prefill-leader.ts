/**
 * The leader of a task executor's DP groups: keeps the one queue of tasks that have no group yet, and gives each to the group where it is probably prefilled
 * soonest (xDeepServe §4.3). It asks for the groups' state only while somebody waits.
 *
 *   wanted ─▶ queue ─▶ ask groups ─▶ their states ─▶ assign, the first first, while a group is open ─▶ (what was given, until its group has it)
 *
 * A group with a long backlog is closed: what came meanwhile is not bound to it, but waits here for whoever is free first. So long prompts do not make
 * short ones wait, and where options say so, very long ones have groups of their own.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import type { GroupState, StepCost, Wanted } from '../../src/protocol/balancing.ts';
import { lowest } from './group-choice.ts';
import { PrefixMarks } from './prefix-marks.ts';
import { prefill_us } from './step-cost.ts';
import { isBefore, type Turn } from './waiting-line.ts';

export type LeaderLimits = {
  /** Tokens of a group's step at most. */
  readonly batch_tokens_max: number;
  /** Prompts of so many tokens are very long, and belong to the last `long_groups` groups alone; 0 groups: no prompt is. */
  readonly long_tokens: number;
  readonly long_groups: number;
  /** Whether groups keep what they have computed. */
  readonly has_prefix_cache: boolean;
  /** False: first come, first served. */
  readonly has_priorities: boolean;
};

export type Assignment = { readonly task: Address; readonly group: number };
/** What is to be done: groups to ask, tasks that have a group now. */
export type Orders = { readonly ask: readonly number[]; readonly assignments: readonly Assignment[] };

/** Steps that a group's backlog may fill before it is closed: it never runs dry while its leader is asked, and binds little ahead. */
const OPEN_STEPS = 2;
/** A prompt this many times longer than a step is long: it is kept from groups with short ones. */
const LONG_STEPS = 4;
const MARKS_MAX = 65_536;
/** So many later tasks of a priority that is better by 1 may overtake one. */
const PATIENCE = 64;

/** Whether such a group takes no more for now, and says so once it does. */
export const isClosed = (backlog_tokens: number, batch_tokens_max: number): boolean => backlog_tokens >= OPEN_STEPS * batch_tokens_max;

type Given = { readonly group: number; readonly tokens: number };

export class PrefillLeader {
  readonly #limits: LeaderLimits;
  #cost: StepCost;
  #groups: readonly number[] = [];
  /** In order of their turns. */
  #queue: (Wanted & Turn)[] = [];
  #arrivals = 0;
  readonly #asked = new Set<number>();
  readonly #states = new Map<number, GroupState>();
  /** They will tell when they are open again. */
  readonly #owing = new Set<number>();
  /** By task: what was given, and its group has not told that it has it. */
  readonly #given = new Map<Address, Given>();
  readonly #marks = new PrefixMarks(MARKS_MAX);

  constructor(limits: LeaderLimits, cost: StepCost) {
    this.#limits = limits;
    this.#cost = cost;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** Who serves now; nobody: it leads no more. */
  lead(groups: readonly number[], cost: StepCost): Orders {
    this.#cost = cost;
    for (const gone of this.#groups) if (!groups.includes(gone)) this.#lose(gone);
    this.#groups = [...groups].sort((a, b) => a - b);
    // Another leads now, and is told of those who wait.
    if (groups.length === 0) this.#queue = [];
    return this.#goOn();
  }

  want(wanted: Wanted): Orders {
    if (this.#queue.some(({ task }) => task === wanted.task)) return NO_ORDERS;
    const arrival = this.#arrivals++;
    const waiting = { ...wanted, arrival, rank: this.#limits.has_priorities ? arrival + PATIENCE * wanted.priority : 0 };
    const at = this.#queue.findLastIndex((other) => isBefore(other, waiting)) + 1;
    this.#queue.splice(at, 0, waiting);
    return this.#goOn();
  }

  /** The task needs no group any more, or has one that it will not go to. */
  unwant(task: Address): Orders {
    this.#queue = this.#queue.filter((other) => other.task !== task);
    this.#given.delete(task);
    return this.#goOn();
  }

  /** A group tells how it is: since it was asked, since it is open again, or since it has got `task`. */
  hear(state: GroupState, task: Address | null): Orders {
    const { group, backlog_tokens } = state;
    if (task !== null) this.#given.delete(task);
    if (!this.#groups.includes(group)) return NO_ORDERS;
    this.#states.set(group, state);
    // Who is closed says so once, and once more when it is not.
    if (isClosed(backlog_tokens, this.#limits.batch_tokens_max)) this.#owing.add(group);
    else this.#owing.delete(group);
    this.#asked.delete(group);
    return this.#goOn();
  }

  #lose(group: number): void {
    this.#asked.delete(group);
    this.#states.delete(group);
    this.#owing.delete(group);
    this.#marks.forget(group);
    for (const [task, given] of this.#given) if (given.group === group) this.#given.delete(task);
  }

  /** Assigns when all have answered; asks those of whom nothing certain is known while somebody waits. */
  #goOn(): Orders {
    if (this.#queue.length === 0) this.#states.clear();
    if (this.#queue.length === 0 || this.#asked.size > 0) return NO_ORDERS;
    const assignments = this.#assign();
    const ask = this.#suiting().filter((group) => !this.#owing.has(group) && !this.#isWaitedFor(group));
    for (const group of ask) this.#asked.add(group);
    // What was known is used up.
    this.#states.clear();
    return { ask, assignments };
  }

  /** What it was given has not arrived there: it tells when it has. */
  #isWaitedFor(group: number): boolean {
    return [...this.#given.values()].some((given) => given.group === group);
  }

  #assign(): readonly Assignment[] {
    const assignments: Assignment[] = [];
    const backlogs = new Map<number, number>();
    for (const [group, { backlog_tokens }] of this.#states) backlogs.set(group, backlog_tokens);
    for (const { group, tokens } of this.#given.values()) backlogs.set(group, (backlogs.get(group) ?? 0) + tokens);
    const isOpen = (group: number): boolean => this.#states.has(group) && !isClosed(backlogs.get(group) ?? 0, this.#limits.batch_tokens_max);
    this.#queue = this.#queue.filter((wanted) => {
      const open = this.#suitingFor(this.#isVeryLong(wanted)).filter(isOpen);
      if (open.length === 0) return true;
      const costs = open.map((group) => ({ group, us: this.#cost_us(group, backlogs.get(group) ?? 0, wanted) }));
      const { group } = lowest(costs, ({ us }) => [us]);
      const tokens = wanted.prompt_tokens - this.#known(group, wanted);
      backlogs.set(group, (backlogs.get(group) ?? 0) + tokens);
      this.#given.set(wanted.task, { group, tokens });
      if (this.#limits.has_prefix_cache) this.#marks.add(group, wanted.marks);
      assignments.push({ task: wanted.task, group });
      return false;
    });
    return assignments;
  }

  /** The groups that somebody who waits could be given: asked of another, nobody would be given anything, and it would be asked again at once. */
  #suiting(): readonly number[] {
    const suiting = new Set([...new Set(this.#queue.map((wanted) => this.#isVeryLong(wanted)))].flatMap((isVeryLong) => this.#suitingFor(isVeryLong)));
    return this.#groups.filter((group) => suiting.has(group));
  }

  /** Very long prompts have groups of their own, where any of those serve; and the other prompts the others. */
  #suitingFor(isVeryLong: boolean): readonly number[] {
    const { long_groups } = this.#limits;
    if (long_groups === 0) return this.#groups;
    const own = isVeryLong ? this.#groups.slice(-long_groups) : this.#groups.slice(0, -long_groups);
    return own.length > 0 ? own : this.#groups;
  }

  #isVeryLong({ prompt_tokens }: Wanted): boolean {
    return prompt_tokens >= this.#limits.long_tokens;
  }

  /** Of its prompt, what the group has probably computed already; at least one token is computed in any case. */
  #known(group: number, { prompt_tokens, marks }: Wanted): number {
    return this.#limits.has_prefix_cache ? Math.min(prompt_tokens - 1, this.#marks.tokensAt(group, marks)) : 0;
  }

  /** Until it is prefilled there; and, where long would meet short, as long again: that is what it costs those who come behind. */
  #cost_us(group: number, backlog: number, wanted: Wanted): number {
    const { batch_tokens_max } = this.#limits;
    const { decodes, longest_tokens } = this.#states.get(group) as GroupState;
    const known = this.#known(group, wanted);
    const own = prefill_us(this.#cost, known, wanted.prompt_tokens - known, batch_tokens_max, decodes);
    const isLong = (tokens: number): boolean => tokens > LONG_STEPS * batch_tokens_max;
    const isMixed = backlog > 0 && isLong(longest_tokens) !== isLong(wanted.prompt_tokens - known);
    return prefill_us(this.#cost, 0, backlog, batch_tokens_max, decodes) + own * (isMixed ? 2 : 1);
  }

  /** All of its state but the marks themselves: what a snapshot of its owner shows. */
  toJSON(): object {
    const given = [...this.#given].map(([task, { group, tokens }]) => ({ task, group, tokens }));
    const sets = { asked: [...this.#asked], owing: [...this.#owing], states: [...this.#states.values()] };
    return { groups: [...this.#groups], queue: this.#queue.map(({ task }) => task), ...sets, given, marks: this.#marks.size, cost: this.#cost };
  }
}

const NO_ORDERS: Orders = { ask: [], assignments: [] };
