/**
 * Which tokens an NPU computes next: continuous batching with chunked prefill under a token budget.
 *
 * Running sequences decode first, one token each; what is left of the budget goes to prefill. Among each, and among those who wait, whose turn it is depends
 * on priority and arrival: one of a priority that is lower by 1 is overtaken only by what comes within the next PATIENCE_STEPS steps. So each turn comes,
 * whoever else arrives. When KV blocks run out, the last in turn gives its blocks back and is recomputed later; never the oldest, so that one always gets to
 * its end. What others have computed of the same prefix is not computed again. Since kernels are batch-invariant, none of these choices changes a token.
 *
 * A step may be planned while the one before it runs (asynchronous scheduling, DeepServe §4.2):
 *
 *   NPU         │ step n             │ step n + 1         │ step n + 2
 *   scheduler     plan n + 1 ────────▶ retire n, plan n + 2 ─▶ …
 *
 * How many tokens each sequence computes does not depend on which they are. What n turns out to end, n + 1 computes in vain, and nobody hears of it. What
 * would make others give way waits until n has come back, since nobody's blocks can be taken while they are written.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { abandoned, decoding, generated, generationFailed, preempted, scheduled, tokens as tokensMessage } from '../../src/protocol/constructors.ts';
import { assert, type ErrorRecord } from '../../src/protocol/errors.ts';
import type { Commands, FinishReason, Sequence, StepEntry, StepOutcome, StepPlan, TokenOut } from '../../src/protocol/messages.ts';
import { BatchSlots } from './batch-slots.ts';
import type { Holding } from './cache-holding.ts';
import { RelationalTensorCache } from './relational-tensor-cache.ts';
import { newRunningSequence, noHolding, outputOf, type RunningSequence, tokenOut, tokensToLaunch } from './running-sequence.ts';
import { stepEntry } from './step-entry.ts';
import { isBefore, WaitingLine } from './waiting-line.ts';

export type SchedulerLimits = {
  readonly kv_blocks: number;
  readonly kv_block_size: number;
  readonly batch_tokens_max: number;
  readonly batch_requests_max: number;
  /** Whether a sequence begins with the KV of others that began alike. */
  readonly has_prefix_cache: boolean;
  /** Whether a step is planned while the one before it runs. */
  readonly is_asynchronous: boolean;
  /** False: first come, first served, whatever the priorities (the baseline). */
  readonly has_priorities: boolean;
};

/** A step and what to tell the tasks when it is sent. */
export type Planned = { readonly plan: StepPlan; readonly messages: readonly Commands['send'][] };

const FRONTEND: Address = 'frontend/0';
/** After the last step number comes 1 again. */
const STEPS = 2 ** 31 - 1;
/** For so many steps a sequence can be overtaken by later ones of a priority that is better by 1: at 10 to 50 ms a step about a second. */
export const PATIENCE_STEPS = 64;
/** The one that runs, and the one that begins when it ends. */
const STEPS_LAUNCHED_MAX = 2;

const HBM_ALONE = { dram_blocks: 0, swap_low: 0, swap_high: 0, swap_blocks_max: 0, kv_event_batches: 0 };

type Launched = { readonly running: RunningSequence; readonly count: number; readonly samples: boolean };

export class StepScheduler {
  readonly cache: RelationalTensorCache;
  readonly #limits: SchedulerLimits;
  readonly #slots: BatchSlots;
  /** All who run or wait. */
  readonly #byTask = new Map<Address, RunningSequence>();
  readonly #waiting = new WaitingLine<RunningSequence>();
  /** In order of their turns; who is over is in none of these lists, only in steps that have not come back. */
  readonly #running: RunningSequence[] = [];
  /** The one that runs first. */
  #steps: (readonly Launched[])[] = [];
  #step = 0;
  /** Steps planned and sequences taken in so far. */
  #steps_planned = 0;
  #arrivals = 0;
  tokens_prefilled = 0;
  tokens_decoded = 0;
  preemptions = 0;

  constructor(limits: SchedulerLimits) {
    this.#limits = limits;
    this.cache = new RelationalTensorCache({ blocks: limits.kv_blocks, block_size: limits.kv_block_size, ...HBM_ALONE });
    this.#slots = new BatchSlots(limits.batch_requests_max);
  }

  /** The last that was planned. */
  get step(): number {
    return this.#step;
  }
  get running(): number {
    return this.#running.length;
  }
  get waiting(): number {
    return this.#waiting.length;
  }
  /** A step is planned and has not come back. */
  get isStepping(): boolean {
    return this.#steps.length > 0;
  }
  /** Somebody waits for a token. */
  get hasWork(): boolean {
    return this.#running.length + this.#waiting.length > 0;
  }

  /** Takes a sequence in; refuses one that could never run here. */
  enqueue(task: Address, sequence: Sequence): readonly Commands['send'][] {
    const needed = this.cache.blocksFor(sequence.prompt.length + sequence.max_tokens);
    if (needed > this.cache.blocks) {
      const error: ErrorRecord = {
        code: 'out_of_memory',
        message: `prompt and max_tokens need ${needed} KV blocks of ${this.cache.block_size} positions, the NPU has ${this.cache.blocks}`,
        param: 'max_tokens',
      };
      return [{ to: task, message: generationFailed(error) }];
    }
    const running = newRunningSequence(task, sequence, {
      rank: this.#limits.has_priorities ? this.#steps_planned + PATIENCE_STEPS * sequence.priority : 0,
      arrival: this.#arrivals++,
    });
    this.#byTask.set(task, running);
    this.#waiting.push(running);
    return [];
  }

  /** Keeps a prompt's prefix for those who will name the context. */
  keepContext(context: string, cache_salt: string, tokens: readonly number[]): void {
    if (this.#limits.has_prefix_cache) this.cache.createContext(context, cache_salt, tokens);
  }

  /** Lets a sequence go: at once, or when the last step that computes it has come back, since its blocks are still written until then. */
  abandon(task: Address): readonly Commands['send'][] {
    const running = this.#byTask.get(task);
    if (running !== undefined) this.#end(running, 'abandoned');
    return running !== undefined && running.flights > 0 ? [] : [{ to: task, message: abandoned() }];
  }

  /** The next step, or one ahead of the step that runs; null when there is none to plan now. */
  plan(): Planned | null {
    const isAhead = this.isStepping;
    if (isAhead && (!this.#limits.is_asynchronous || this.#steps.length >= STEPS_LAUNCHED_MAX)) return null;
    const inOrder = this.#inOrder();
    if (isAhead && !this.#hasRoomFor(inOrder)) return null;
    const messages: Commands['send'][] = [];
    const entries: StepEntry[] = [];
    const launched: Launched[] = [];
    let budget = this.#limits.batch_tokens_max;
    let isShort = false; // of KV blocks: then nobody new is let in
    for (const running of inOrder) {
      if (budget === 0) break;
      if (running.slot < 0) continue; // has just given way to an older one
      const count = Math.min(tokensToLaunch(running), budget);
      const hasRoom = this.#makeRoom(running, count, messages);
      isShort ||= !hasRoom || messages.length > 0;
      if (!hasRoom) continue;
      entries.push(this.#launch(running, count, null, launched));
      budget -= count;
    }
    while (budget > 0 && !isShort && this.#slots.hasFree) {
      const next = this.#waiting.first;
      if (next === undefined) break;
      const count = this.#admit(next, budget);
      if (count === 0) break;
      messages.push({ to: next.task, message: scheduled() });
      entries.push(this.#launch(next, count, next.sequence, launched));
      budget -= count;
    }
    assert(entries.length > 0 || isAhead || !this.hasWork, 'sequences wait for a step, and nothing can run');
    if (entries.length === 0) return null;
    const after = isAhead ? this.#step : 0;
    // Step numbers travel as int32, and 0 means none.
    this.#step = (this.#step % STEPS) + 1;
    this.#steps_planned++;
    this.#steps.push(launched);
    return { plan: { step: this.#step, after, entries, detach: this.takeDetached() }, messages };
  }

  /** Slots whose sequences are gone since this was asked last: the NPU frees what it holds for them. */
  takeDetached(): readonly number[] {
    return this.#slots.takeDetached();
  }

  /** What came of the step that ran: tokens go to the frontend in one message, ends and failures to the tasks. */
  retire(outcomes: readonly StepOutcome[]): readonly Commands['send'][] {
    const launched = this.#steps.shift() ?? [];
    assert(outcomes.length === launched.length, `${outcomes.length} outcomes of ${launched.length} entries`);
    const out: TokenOut[] = [];
    const messages: Commands['send'][] = [];
    launched.forEach(({ running, count, samples }, index) => {
      const outcome = outcomes[index] as StepOutcome;
      const start = running.computed;
      running.flights--;
      if (samples) running.sampling--;
      // Of one that is over, the token that it went on with is not known.
      running.computed = Math.min(start + count, running.tokens.length);
      this.tokens_prefilled += Math.max(0, Math.min(count, running.sequence.prompt.length - start));
      if (outcome.error !== null) running.isSound = false;
      if (running.end !== 'none') this.#dropFlight(running, messages);
      else if (outcome.error !== null) {
        this.#end(running, 'told');
        messages.push({ to: running.task, message: generationFailed(outcome.error) });
      } else {
        if (this.#limits.has_prefix_cache) this.cache.publish(running.holding, running.tokens, running.computed);
        if (samples) out.push(this.#tokenOf(running, start + 1, outcome, messages));
        else if (outcome.prompt_logprobs !== null) out.push(tokenOut(running, start + 1, outcome, null, false));
      }
    });
    // Tokens first: a task that hears of its end has had its last token sent before.
    return out.length === 0 ? messages : [{ to: FRONTEND, message: tokensMessage(out) }, ...messages];
  }

  /** The NPU failed under a step: all that it held fails with it, and so does the step that was to follow. */
  failAll(error: ErrorRecord): readonly Commands['send'][] {
    const messages: Commands['send'][] = [];
    for (const { running, samples } of this.#steps.flat()) {
      running.flights--;
      if (samples) running.sampling--;
      if (running.end !== 'none') this.#dropFlight(running, messages);
    }
    this.#steps = [];
    for (const running of this.#running.slice()) {
      this.#end(running, 'told');
      messages.push({ to: running.task, message: generationFailed(error) });
    }
    // What it kept lay in the memory that it failed in.
    this.cache.drop();
    return messages;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const { step, tokens_prefilled, tokens_decoded, preemptions, cache } = this;
    const launched = this.#steps.map((entries) => entries.map(({ running, ...entry }) => ({ task: running.task, ...entry })));
    const tableOf = ({ holding, ...running }: RunningSequence): object => ({ ...running, blocks: holding.blocks, shared: holding.path.length });
    const lists = { running: this.#running.map(tableOf), waiting: [...this.#waiting].map(tableOf), launched, ...this.#slots.toJSON() };
    return { step, tokens_prefilled, tokens_decoded, preemptions, ...structuredClone(lists), cache: cache.toJSON(), limits: this.#limits };
  }

  /** Those who have something to compute: who decodes, then who prefills, each in order of their turns. */
  #inOrder(): readonly RunningSequence[] {
    const decodes: RunningSequence[] = [];
    const prefills: RunningSequence[] = [];
    for (const running of this.#running) {
      const count = tokensToLaunch(running);
      if (count === 1) decodes.push(running);
      else if (count > 1) prefills.push(running);
    }
    return decodes.length === 0 ? prefills : prefills.length === 0 ? decodes : [...decodes, ...prefills];
  }

  /** Whether nobody would have to give way for a step of these. */
  #hasRoomFor(inOrder: readonly RunningSequence[]): boolean {
    let budget = this.#limits.batch_tokens_max;
    let missing = 0;
    for (const running of inOrder) {
      if (budget === 0) break;
      const count = Math.min(tokensToLaunch(running), budget);
      missing += this.#missingBlocks(running, count);
      budget -= count;
    }
    return this.cache.canAllocate(missing);
  }

  #missingBlocks({ launched, holding }: RunningSequence, count: number): number {
    return Math.max(0, this.cache.blocksFor(launched + count) - holding.blocks.length);
  }

  #tokenOf(running: RunningSequence, prompt_start: number, outcome: StepOutcome, messages: Commands['send'][]): TokenOut {
    const { sequence, task } = running;
    const { token } = outcome;
    running.tokens.push(token);
    this.tokens_decoded++;
    if (!running.isDecoding) messages.push({ to: task, message: decoding() });
    running.isDecoding = true;
    const stops = outputOf(running) > sequence.sampling.min_tokens && sequence.sampling.stop_token_ids.includes(token);
    const finish: FinishReason | null = stops ? 'stop' : outputOf(running) >= sequence.max_tokens ? 'length' : null;
    if (finish !== null) {
      this.#end(running, 'told');
      messages.push({ to: task, message: generated() });
    }
    return tokenOut(running, prompt_start, outcome, finish, stops);
  }

  /** Lets the first who waits run, with what is known of its prefix. Gives how many of its tokens there is room for; 0: none, it waits on. */
  #admit(next: RunningSequence, budget: number): number {
    const { tokens, sequence } = next;
    // At least one token is computed: what it yields is not kept. Whoever asks for the log-probabilities of its prompt needs all of it computed.
    const readsCache = this.#limits.has_prefix_cache && sequence.sampling.prompt_logprobs < 0;
    const holding = readsCache ? this.#match(next) : noHolding(sequence);
    const known = holding.blocks.length * this.cache.block_size;
    const count = Math.min(tokens.length - known, budget);
    const hasRoom = this.cache.canAllocate(this.cache.blocksFor(known + count) - holding.blocks.length);
    if (!hasRoom || (readsCache && this.#isUnderWay(next, known))) {
      this.cache.free(holding);
      return 0;
    }
    this.#waiting.shift();
    this.#run(next);
    next.slot = this.#slots.take();
    next.holding = holding;
    next.computed = known;
    next.launched = known;
    if (next.cached < 0) {
      next.cached = known;
      if (readsCache) this.cache.positions_queried += sequence.prompt.length;
      this.cache.positions_hit += known;
    }
    return count;
  }

  #match({ tokens, sequence: { context, cache_salt } }: RunningSequence): Holding {
    const named = context === '' ? null : this.cache.matchByID(context, cache_salt, tokens, tokens.length - 1);
    return named ?? this.cache.matchByPrefixToken(cache_salt, tokens, tokens.length - 1);
  }

  /**
   * Whether a sequence before this one computes more of the same prefix right now: choices of one prompt, or a burst of requests that begin alike. Waiting for
   * it costs two steps at most, since who computes a prompt takes all of the budget until its last chunk.
   */
  #isUnderWay({ tokens, sequence }: RunningSequence, known: number): boolean {
    const wanted = known + this.cache.block_size;
    if (wanted >= tokens.length) return false;
    return this.#running.some((other) => {
      if (other.computed >= other.tokens.length - 1 || other.tokens.length < wanted || other.sequence.cache_salt !== sequence.cache_salt) return false;
      for (let at = wanted - 1; at >= 0; at--) if (other.tokens[at] !== tokens[at]) return false;
      return true;
    });
  }

  #launch(running: RunningSequence, count: number, attach: Sequence | null, launched: Launched[]): StepEntry {
    const granted = this.#missingBlocks(running, count);
    if (granted > 0) this.cache.allocBlocks(running.holding, granted);
    const entry = stepEntry(running, count, granted, attach);
    running.flights++;
    running.launched += count;
    if (entry.samples) running.sampling++;
    launched.push({ running, count, samples: entry.samples });
    return entry;
  }

  /**
   * Makes room for `count` more tokens of a running sequence, at the cost of those behind it that are not in this step yet; for the oldest at the cost of any.
   * False: none is left, so it sits this step out. The oldest gets room in the end, since `enqueue` takes in nothing larger than the NPU.
   */
  #makeRoom(running: RunningSequence, count: number, messages: Commands['send'][]): boolean {
    const missing = this.#missingBlocks(running, count);
    let oldest: RunningSequence | null = null;
    while (missing > 0 && !this.cache.canAllocate(missing)) {
      oldest ??= this.#running.reduce((first, other) => (other.arrival < first.arrival ? other : first));
      const victim = this.#running.findLast((other) => other.flights === 0 && other !== oldest);
      if (victim === undefined || victim === running) return false;
      this.#preempt(victim, messages);
    }
    return true;
  }

  /** Nearly always at the end: who waits has come later than who runs. */
  #run(next: RunningSequence): void {
    let at = this.#running.length;
    while (at > 0 && isBefore(next, this.#running[at - 1] as RunningSequence)) at--;
    this.#running.splice(at, 0, next);
  }

  #preempt(victim: RunningSequence, messages: Commands['send'][]): void {
    this.#running.splice(this.#running.indexOf(victim), 1);
    this.#letGo(victim);
    this.preemptions++;
    victim.computed = 0;
    victim.launched = 0;
    victim.isDecoding = false;
    this.#waiting.push(victim);
    messages.push({ to: victim.task, message: preempted() });
  }

  /** It runs or waits no more; what it holds is let go of when no step computes it any longer. */
  #end(running: RunningSequence, end: 'told' | 'abandoned'): void {
    running.end = end;
    this.#byTask.delete(running.task);
    if (running.slot < 0) this.#waiting.remove(running);
    else {
      this.#running.splice(this.#running.indexOf(running), 1);
      if (running.flights === 0) this.#letGo(running);
    }
  }

  /** A step of one that is over has come back. */
  #dropFlight(running: RunningSequence, messages: Commands['send'][]): void {
    if (running.flights > 0) return;
    this.#letGo(running);
    if (running.end === 'abandoned') messages.push({ to: running.task, message: abandoned() });
  }

  #letGo(running: RunningSequence): void {
    const keeps = this.#limits.has_prefix_cache && running.isSound;
    this.cache.free(running.holding, running.tokens, keeps ? running.computed : 0);
    this.#slots.give(running.slot);
    running.slot = -1;
  }
}
