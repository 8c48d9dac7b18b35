/**
 * Which tokens an NPU computes next: continuous batching with chunked prefill under a token budget.
 *
 * Running sequences decode first, one token each; what is left of the budget goes to prefill, in order of arrival. When KV blocks run out, the
 * sequence that came last gives its blocks back and is recomputed later (never the oldest, so that one always gets to its end). What others have
 * computed of the same prefix is not computed again. Since kernels are batch-invariant, none of these choices changes a token.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { abandoned, decoding, generated, generationFailed, preempted, scheduled, tokens as tokensMessage } from '../../src/protocol/constructors.ts';
import { assert, type ErrorRecord } from '../../src/protocol/errors.ts';
import type { Commands, FinishReason, Sequence, StepEntry, StepOutcome, StepPlan, TokenOut } from '../../src/protocol/messages.ts';
import { type Holding, RelationalTensorCache } from './relational-tensor-cache.ts';
import { WaitingLine } from './waiting-line.ts';

export type SchedulerLimits = {
  readonly kv_blocks: number;
  readonly kv_block_size: number;
  readonly batch_tokens_max: number;
  readonly batch_requests_max: number;
  /** Whether a sequence begins with the KV of others that began alike. */
  readonly has_prefix_cache: boolean;
};

const FRONTEND: Address = 'frontend/0';
/** After the last step number comes 1 again. */
const STEPS = 2 ** 31 - 1;

/** A sequence on its way: `tokens` are prompt and output so far, the first `computed` of them have their KV. */
type Running = {
  readonly task: Address;
  readonly sequence: Sequence;
  readonly tokens: number[];
  computed: number;
  holding: Holding;
  slot: number;
  /** Prompt tokens whose KV was there when it was scheduled first; −1: it was not. */
  cached: number;
  /** The step that runs computes it. */
  isLaunched: boolean;
  isDecoding: boolean;
  /** Its KV can be trusted. */
  isSound: boolean;
  isAbandoned: boolean;
};
type Launched = { readonly running: Running; readonly count: number; readonly samples: boolean };

const NOTHING: readonly number[] = [];
const noHolding = ({ cache_salt }: Sequence): Holding => ({ space: cache_salt, blocks: [], path: [] });
const outputOf = ({ tokens, sequence }: Running): number => tokens.length - sequence.prompt.length;

export class StepScheduler {
  readonly cache: RelationalTensorCache;
  readonly #limits: SchedulerLimits;
  readonly #slots: number[];
  /** All who run or wait. */
  readonly #byTask = new Map<Address, Running>();
  readonly #waiting = new WaitingLine<Running>();
  /** Oldest first. */
  readonly #running: Running[] = [];
  #launched: Launched[] = [];
  #detach: number[] = [];
  #step = 0;
  tokens_prefilled = 0;
  tokens_decoded = 0;
  preemptions = 0;

  constructor(limits: SchedulerLimits) {
    this.#limits = limits;
    this.cache = new RelationalTensorCache({ blocks: limits.kv_blocks, block_size: limits.kv_block_size });
    this.#slots = Array.from({ length: limits.batch_requests_max }, (_, index) => limits.batch_requests_max - 1 - index);
  }

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
    return this.#launched.length > 0;
  }
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
    const running: Running = {
      task,
      sequence,
      tokens: [...sequence.prompt],
      computed: 0,
      holding: noHolding(sequence),
      slot: -1,
      cached: -1,
      isLaunched: false,
      isDecoding: false,
      isSound: true,
      isAbandoned: false,
    };
    this.#byTask.set(task, running);
    this.#waiting.push(running);
    return [];
  }

  /** Lets a sequence go: at once, or when the step that computes it has retired, since its blocks are still written until then. */
  abandon(task: Address): readonly Commands['send'][] {
    const running = this.#byTask.get(task);
    if (running?.isLaunched) {
      running.isAbandoned = true;
      return [];
    }
    this.#remove(task);
    return [{ to: task, message: abandoned() }];
  }

  /** The next step and what to tell the tasks; the plan is empty when nothing can run. */
  plan(): { readonly plan: StepPlan; readonly messages: readonly Commands['send'][] } {
    assert(this.#launched.length === 0, 'a step is still running');
    const messages: Commands['send'][] = [];
    const entries: StepEntry[] = [];
    let budget = this.#limits.batch_tokens_max;
    let isShort = false; // of KV blocks: then nobody new is let in
    const isDecode = (running: Running): boolean => running.tokens.length - running.computed === 1;
    const inOrder = [...this.#running.filter(isDecode), ...this.#running.filter((running) => !isDecode(running))];
    for (const running of inOrder) {
      if (budget === 0) break;
      if (running.slot < 0) continue; // has just given way to an older one
      const count = Math.min(running.tokens.length - running.computed, budget);
      const hasRoom = this.#makeRoom(running, count, messages);
      isShort ||= !hasRoom || messages.length > 0;
      if (!hasRoom) continue;
      entries.push(this.#launch(running, count, null));
      budget -= count;
    }
    while (budget > 0 && !isShort && this.#slots.length > 0) {
      const next = this.#waiting.first;
      if (next === undefined) break;
      const count = this.#admit(next, budget);
      if (count === 0) break;
      messages.push({ to: next.task, message: scheduled() });
      entries.push(this.#launch(next, count, next.sequence));
      budget -= count;
    }
    assert(entries.length > 0, 'a step was planned and nothing can run');
    const detach = this.takeDetached();
    // Step numbers travel as int32, and 0 means none.
    this.#step = (this.#step % STEPS) + 1;
    return { plan: { step: this.#step, entries, detach }, messages };
  }

  /** Slots whose sequences are gone since this was asked last: the NPU frees what it holds for them. */
  takeDetached(): readonly number[] {
    const detached = this.#detach;
    this.#detach = [];
    return detached;
  }

  /** What came of the step: tokens go to the frontend in one message, ends and failures to the tasks. */
  retire(outcomes: readonly StepOutcome[]): readonly Commands['send'][] {
    const launched = this.#launched;
    this.#launched = [];
    assert(outcomes.length === launched.length, `${outcomes.length} outcomes of ${launched.length} entries`);
    const out: TokenOut[] = [];
    const messages: Commands['send'][] = [];
    launched.forEach(({ running, count, samples }, index) => {
      const outcome = outcomes[index] as StepOutcome;
      const start = running.computed;
      running.isLaunched = false;
      running.computed += count;
      if (outcome.error !== null) running.isSound = false;
      else if (this.#limits.has_prefix_cache) this.cache.publish(running.holding, running.tokens, running.computed);
      this.tokens_prefilled += Math.max(0, Math.min(count, running.sequence.prompt.length - start));
      if (running.isAbandoned) {
        this.#remove(running.task);
        messages.push({ to: running.task, message: abandoned() });
      } else if (outcome.error !== null) {
        this.#remove(running.task);
        messages.push({ to: running.task, message: generationFailed(outcome.error) });
      } else {
        const token = samples ? this.#tokenOf(running, outcome, messages) : null;
        if (token !== null) out.push({ ...token, prompt_start: start + 1, prompt_logprobs: outcome.prompt_logprobs });
        else if (outcome.prompt_logprobs !== null) out.push(promptOnly(running, start + 1, outcome));
      }
    });
    // Tokens first: a task that hears of its end has had its last token sent before.
    return out.length === 0 ? messages : [{ to: FRONTEND, message: tokensMessage(out) }, ...messages];
  }

  /** The NPU failed under the step: all that it held fails with it. */
  failAll(error: ErrorRecord): readonly Commands['send'][] {
    for (const { running } of this.#launched) running.isLaunched = false;
    this.#launched = [];
    const messages = this.#running.slice().map((running) => {
      this.#remove(running.task);
      return { to: running.task, message: running.isAbandoned ? abandoned() : generationFailed(error) };
    });
    // What it kept lay in the memory that it failed in.
    this.cache.drop();
    return messages;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const { step, tokens_prefilled, tokens_decoded, preemptions, cache } = this;
    const launched = this.#launched.map(({ running, ...entry }) => ({ task: running.task, ...entry }));
    const tableOf = ({ holding, ...running }: Running): object => ({ ...running, blocks: holding.blocks, shared: holding.path.length });
    const lists = { running: this.#running.map(tableOf), waiting: [...this.#waiting].map(tableOf), launched, slots: this.#slots, detach: this.#detach };
    return { step, tokens_prefilled, tokens_decoded, preemptions, ...structuredClone(lists), cache: cache.toJSON(), limits: this.#limits };
  }

  #tokenOf(running: Running, { token, logprobs }: StepOutcome, messages: Commands['send'][]): TokenOut {
    const { sequence, task } = running;
    running.tokens.push(token);
    this.tokens_decoded++;
    if (!running.isDecoding) messages.push({ to: task, message: decoding() });
    running.isDecoding = true;
    const stops = outputOf(running) > sequence.sampling.min_tokens && sequence.sampling.stop_token_ids.includes(token);
    const finish: FinishReason | null = stops ? 'stop' : outputOf(running) >= sequence.max_tokens ? 'length' : null;
    if (finish !== null) {
      this.#remove(task);
      messages.push({ to: task, message: generated() });
    }
    const cached = outputOf(running) === 1 ? running.cached : 0;
    return { request: sequence.request, choice: sequence.choice, token, finish, stops, logprobs, cached, prompt_start: 0, prompt_logprobs: null };
  }

  /** Lets the first who waits run, with what is known of its prefix. Gives how many of its tokens there is room for; 0: none, it waits on. */
  #admit(next: Running, budget: number): number {
    const { tokens, sequence } = next;
    // At least one token is computed: what it yields is not kept. Whoever asks for the log-probabilities of its prompt needs all of it computed.
    const readsCache = this.#limits.has_prefix_cache && sequence.sampling.prompt_logprobs < 0;
    const holding = readsCache ? this.cache.matchByPrefixToken(sequence.cache_salt, tokens, tokens.length - 1) : noHolding(sequence);
    const known = holding.blocks.length * this.cache.block_size;
    const count = Math.min(tokens.length - known, budget);
    const hasRoom = this.cache.canAllocate(this.cache.blocksFor(known + count) - holding.blocks.length);
    if (!hasRoom || (readsCache && this.#isUnderWay(next, known))) {
      this.cache.free(holding);
      return 0;
    }
    this.#waiting.shift();
    this.#running.push(next);
    next.slot = this.#slots.pop() as number;
    next.holding = holding;
    next.computed = known;
    if (next.cached < 0) {
      next.cached = known;
      if (readsCache) this.cache.positions_queried += sequence.prompt.length;
      this.cache.positions_hit += known;
    }
    return count;
  }

  /**
   * Whether a sequence before this one computes more of the same prefix right now: choices of one prompt, or a burst of requests that begin alike. Waiting for
   * it costs a step at most, since who computes a prompt takes all of the budget until its last chunk.
   */
  #isUnderWay({ tokens, sequence }: Running, known: number): boolean {
    const wanted = known + this.cache.block_size;
    if (wanted >= tokens.length) return false;
    return this.#running.some((other) => {
      if (other.computed >= other.tokens.length - 1 || other.tokens.length < wanted || other.sequence.cache_salt !== sequence.cache_salt) return false;
      for (let at = wanted - 1; at >= 0; at--) if (other.tokens[at] !== tokens[at]) return false;
      return true;
    });
  }

  #launch(running: Running, count: number, attach: Sequence | null): StepEntry {
    const { holding, tokens, computed } = running;
    // A sequence that is attached is told of its whole table, what it shares included.
    const shared = attach === null ? 0 : holding.blocks.length;
    const first_block = holding.blocks.length - shared;
    const missing = Math.max(0, this.cache.blocksFor(computed + count) - holding.blocks.length);
    if (missing > 0) this.cache.allocBlocks(holding, missing);
    const samples = computed + count === tokens.length;
    running.isLaunched = true;
    this.#launched.push({ running, count, samples });
    return {
      slot: running.slot,
      start: computed,
      tokens: count === 1 ? [tokens[computed] as number] : tokens.slice(computed, computed + count),
      first_block,
      blocks: shared + missing === 0 ? NOTHING : holding.blocks.slice(first_block),
      shared,
      generated: outputOf(running),
      samples,
      attach,
      output: attach === null ? NOTHING : tokens.slice(running.sequence.prompt.length),
    };
  }

  /**
   * Makes room for `count` more tokens of a running sequence, at the cost of those that came after it and are not in this step yet.
   * False: none is left, so it sits this step out. The oldest always gets room, since `enqueue` takes in nothing larger than the NPU.
   */
  #makeRoom(running: Running, count: number, messages: Commands['send'][]): boolean {
    const missing = this.cache.blocksFor(running.computed + count) - running.holding.blocks.length;
    while (missing > 0 && !this.cache.canAllocate(missing)) {
      const victim = this.#running.findLast((candidate) => !candidate.isLaunched);
      if (victim === undefined || victim === running) return false;
      this.#preempt(victim, messages);
    }
    return true;
  }

  #preempt(victim: Running, messages: Commands['send'][]): void {
    this.#letGo(victim);
    this.preemptions++;
    victim.computed = 0;
    victim.isDecoding = false;
    this.#waiting.unshift(victim);
    messages.push({ to: victim.task, message: preempted() });
  }

  #remove(task: Address): void {
    const running = this.#byTask.get(task);
    if (running === undefined) return;
    this.#byTask.delete(task);
    if (running.slot < 0) this.#waiting.remove(running);
    else this.#letGo(running);
  }

  #letGo(running: Running): void {
    this.#running.splice(this.#running.indexOf(running), 1);
    const keeps = this.#limits.has_prefix_cache && running.isSound;
    this.cache.free(running.holding, running.tokens, keeps ? running.computed : 0);
    this.#slots.push(running.slot);
    this.#detach.push(running.slot);
    running.slot = -1;
  }
}

const promptOnly = ({ sequence }: Running, prompt_start: number, { prompt_logprobs }: StepOutcome): TokenOut => ({
  request: sequence.request,
  choice: sequence.choice,
  token: -1,
  finish: null,
  stops: false,
  logprobs: null,
  cached: 0,
  prompt_start,
  prompt_logprobs,
});
