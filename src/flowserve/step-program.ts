/**
 * A step as a record that can be resumed: `start`, then `poll` until it is done. It never waits inside, since many NPUs share a worker:
 * where experts of other NPUs are still computing, `poll` says pending and returns.
 *
 *   part ─▶ part ─▶ … (step-parts.ts; after one of kind `experts`: pending until all answers are here) ─▶ head ─▶ sample
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { BlockPool } from '../fabric/block-pool.ts';
import { type Address, address } from '../protocol/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { LAST_SAMPLED, type PositionLogprobs, type StepEntry, type StepOutcome, type StepPlan } from '../protocol/messages.ts';
import type { ExpertGroup } from '../protocol/topology.ts';
import type { ArrivedDispatch, Exchange } from '../xccl/exchange.ts';
import { deadlineExceeded } from '../xccl/operation.ts';
import type { Arithmetic, Span, TokenSampler } from './arithmetic.ts';
import { ExpertBatches, type Share } from './expert-batches.ts';
import type { Forward } from './forward.ts';
import { LOGIT_ROWS_MAX } from './npu-layout.ts';
import { NOT_FINITE } from './sampler.ts';
import { kvPool } from './step-layout.ts';
import { type Experts, type Part, partsInTurn } from './step-parts.ts';

export type Done = { readonly state: 'done'; readonly plan: StepPlan; readonly outcomes: readonly StepOutcome[]; readonly digest: number };

/**
 * `asked`: peers have just been asked, and some may have answered already. Whoever polls serves first what peers ask of this NPU: a step that goes on
 * to its next layer at once keeps them waiting for that long, and the next layer waits for them in turn (2 NPUs on 2 workers: a fifth of the tokens).
 */
export type Poll = { readonly state: 'pending' | 'asked' } | Done;

const PENDING: Poll = { state: 'pending' };
const ASKED: Poll = { state: 'asked' };

type Run = {
  readonly plan: StepPlan;
  readonly spans: readonly Span[];
  readonly rows: number;
  readonly parts: readonly Part[];
  /** The part that comes next. */
  part: number;
  /** The last that peers were asked for. */
  layer: number;
  /** By expert NPU that has not answered: what it was asked, and under which event. */
  readonly missing: Map<number, { readonly share: Share; event: number }>;
  asked_ms: number;
  failedPeer: number | null;
};

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** A peer that lives answers within milliseconds; one that died is replaced in less than this, and asked again. */
const EXPERTS_DEADLINE_MS = 30_000;

export class StepProgram<Model extends Arithmetic = Forward> {
  readonly forward: Model;
  readonly batches: ExpertBatches;
  readonly exchange: Exchange;
  readonly #blocks: BlockPool;
  /** By slot: its KV blocks. */
  readonly #held = new Map<number, number[]>();
  readonly #sampler: TokenSampler;
  readonly #dieOf: (npu: number) => number;
  readonly #now_ms: () => number;
  readonly #words: Int32Array;
  readonly #self: Address;
  readonly #inTurn: readonly Part[];
  #run: Run | null = null;
  /** Begins when `#run` is done. */
  #next: StepPlan | null = null;
  /** By slot: the token that its last step sampled. */
  readonly #sampled: number[] = [];

  constructor(forward: Model, space: AddressSpace, exchange: Exchange, group: ExpertGroup, dieOf: (npu: number) => number) {
    const { npu, kv } = forward.layout;
    this.forward = forward;
    this.batches = new ExpertBatches(forward, space, group);
    this.#inTurn = partsInTurn(forward, this.batches);
    this.exchange = exchange;
    this.#blocks = new BlockPool(space, kvPool(npu, kv));
    this.#sampler = forward.newSampler(space);
    this.#dieOf = dieOf;
    this.#now_ms = exchange.endpoint.surroundings.now_ms;
    this.#self = address('npu', forward.layout.npu);
    this.#words = space.wordsOf(forward.layout.base);
  }

  get self(): Address {
    return this.#self;
  }

  get npu(): number {
    return this.forward.layout.npu;
  }

  /** The step at hand, or 0. */
  get step(): number {
    return this.#run?.plan.step ?? 0;
  }

  get isRunning(): boolean {
    return this.#run !== null;
  }

  /** The step that was launched and has not begun, or 0. */
  get next(): number {
    return this.#next?.step ?? 0;
  }

  /** Nothing to do before a peer answers. */
  get isWaiting(): boolean {
    return this.#run !== null && this.#run.missing.size > 0;
  }

  /** KV blocks as the memory knows them. */
  get blocks(): BlockPool {
    return this.#blocks;
  }

  start(plan: StepPlan): void {
    assert(this.#run === null, `NPU ${this.npu} is busy with step ${this.#run?.plan.step}`);
    this.release(plan.detach);
    const spans: Span[] = [];
    let row = 0;
    for (const entry of plan.entries) {
      this.#writeInputs(entry, row);
      spans.push({ slot: entry.slot, row, rows: entry.tokens.length });
      row += entry.tokens.length;
    }
    this.#run = { plan, spans, rows: row, parts: this.#inTurn, part: 0, layer: 0, missing: new Map(), asked_ms: 0, failedPeer: null };
  }

  /** One more step, which `startNext` begins once the one at hand is done: what that one samples, it may go on with. */
  queue(plan: StepPlan): void {
    assert(this.#run !== null && this.#next === null, `NPU ${this.npu} was given step ${plan.step}, and has ${this.#next?.step ?? 'none'} to come`);
    this.#next = plan;
  }

  startNext(): void {
    const plan = this.#next;
    assert(plan, `NPU ${this.npu} has no step to come`);
    this.#next = null;
    this.start(plan);
  }

  /** Goes on until peers are missing or the step is done. */
  poll(): Poll {
    const run = this.#run;
    assert(run, `NPU ${this.npu} runs no step`);
    while (run.part < run.parts.length) {
      if (run.missing.size > 0 && !this.#pull(run)) return PENDING;
      if (run.failedPeer !== null) throw new MinipodError('worker_failed', `the experts of NPU ${run.failedPeer} failed at layer ${run.layer}`);
      const part = run.parts[run.part++] as Part;
      if (part.kind === 'compute') part.compute(run.rows, run.spans);
      else {
        this.#dispatch(run, part);
        if (run.missing.size > 0) return ASKED;
      }
    }
    const outcomes = this.#sample(run);
    this.#run = null;
    return { state: 'done', plan: run.plan, outcomes, digest: this.#digest(run) };
  }

  /** FNV-1a over the words of each sequence's last row: a replay that computes otherwise is found out even where the tokens agree. */
  #digest({ spans }: Run): number {
    const { at, layout } = this.forward;
    let hash = FNV_OFFSET;
    for (const { row, rows } of spans) {
      const first = (at.x + (row + rows - 1) * layout.row_bytes) >>> 2;
      for (let word = first; word < first + layout.row_bytes / 4; word++) hash = Math.imul(hash ^ (this.#words[word] as number), FNV_PRIME);
    }
    return hash >>> 0;
  }

  /** To the experts: other NPUs' first, so that they compute while this one does its own share. */
  #dispatch(run: Run, part: Experts): void {
    run.layer = part.layer;
    const shares = part.route(run.rows);
    for (const share of shares) if (share.npu !== this.npu) run.missing.set(share.npu, { share, event: this.#ask(share, run.layer) });
    if (run.missing.size > 0) run.asked_ms = this.#now_ms();
    part.own(
      run.rows,
      shares.find(({ npu }) => npu === this.npu),
    );
  }

  #ask(share: Share, layer: number): number {
    return this.exchange.dispatch(this.#dieOf(share.npu), this.batches.describe(share, layer));
  }

  /** Pulls the answers that have come. True: none is missing any more. */
  #pull(run: Run): boolean {
    for (const [npu, { share, event }] of run.missing) {
      const answer = this.exchange.pull(this.#dieOf(npu), event, this.batches.replyAddress(share), share.pairs);
      if (answer === 'pending') continue;
      run.missing.delete(npu);
      if (answer === 'failed') run.failedPeer = npu;
    }
    return run.missing.size === 0;
  }

  /** NPUs whose answers are missing. */
  get missing(): number[] {
    return [...(this.#run?.missing.keys() ?? [])];
  }

  /** @throws `deadline_exceeded` naming the NPUs that have not answered for too long. */
  checkDeadline(): void {
    const run = this.#run;
    if (run === null || run.missing.size === 0) return;
    const waited_ms = this.#now_ms() - run.asked_ms;
    if (waited_ms > EXPERTS_DEADLINE_MS) throw deadlineExceeded(`layer ${run.layer} of NPU ${this.npu}`, this.missing, waited_ms);
  }

  /** Asks a peer once more for what it has not answered: it was restarted. Experts keep no state, so asking twice is harmless. */
  askAgain(npu: number): void {
    const run = this.#run;
    const missing = run?.missing.get(npu);
    if (run !== null && missing !== undefined) missing.event = this.#ask(missing.share, run.layer);
  }

  /** The persistent kernel of its experts: answers what peers have dispatched, in turn, up to a bound. How many there were. */
  serve(limit: number): number {
    let served = 0;
    for (; served < limit; served++) {
      const dispatch = this.exchange.nextDispatch(this.batches.pairsOf);
      if (dispatch === null) break;
      this.exchange.answer(dispatch, this.#computes(dispatch));
    }
    return served;
  }

  /** False: the experts failed at it. That is the asker's step to fail; this NPU and all others go on. */
  #computes(dispatch: ArrivedDispatch): boolean {
    try {
      this.batches.compute(dispatch, this.forward.layout.areas.reply + dispatch.replyOffset, dispatch.pairs);
      return true;
    } catch {
      return false;
    }
  }

  /** Gives the step up and forgets all slots. Nobody is waited for: what peers still compute for it lies in their memory, and is not looked for. */
  reset(): void {
    for (const [npu, { event }] of this.#run?.missing ?? []) this.exchange.abandon(this.#dieOf(npu), event);
    this.#run = null;
    this.#next = null;
    for (const slot of [...this.#held.keys()]) this.#freeBlocks(slot);
    this.#sampler.reset();
  }

  /** Frees what is held for slots whose sequences are gone. */
  release(slots: readonly number[]): void {
    for (const slot of slots) {
      this.#freeBlocks(slot);
      this.#sampler.detach(slot);
    }
  }

  #freeBlocks(slot: number): void {
    for (const block of this.#held.get(slot) ?? []) this.#blocks.free(block);
    this.#held.delete(slot);
  }

  #holdBlocks({ slot, blocks, shared }: StepEntry): void {
    const held = this.#held.get(slot) ?? [];
    this.#held.set(slot, held);
    blocks.forEach((block, index) => {
      if (index < shared) this.#blocks.share(block);
      else this.#blocks.hold(block);
      // One by one: where one fails, a reset frees those before it.
      held.push(block);
    });
  }

  #writeInputs(entry: StepEntry, row: number): void {
    const { at, layout } = this.forward;
    if (entry.attach !== null) this.#sampler.attach(entry.slot, entry.attach, entry.output);
    const { address, blocks_max } = layout.blockTables;
    let table = (offsetOf(address) >>> 2) + entry.slot * blocks_max + entry.first_block;
    if (entry.blocks.length > 0) this.#holdBlocks(entry);
    for (const block of entry.blocks) this.#words[table++] = offsetOf(this.#blocks.addressOf(block));
    entry.tokens.forEach((token, index) => {
      this.#words[(at.tokenIds >>> 2) + row + index] = token === LAST_SAMPLED ? (this.#sampled[entry.slot] as number) : token;
      this.#words[(at.positions >>> 2) + row + index] = entry.start + index;
    });
  }

  #sample(run: Run): StepOutcome[] {
    const wanted = run.plan.entries.flatMap((entry, index) =>
      entry.samples ? [{ index, row: (run.spans[index] as Span).row + entry.tokens.length - 1 }] : [],
    );
    const prompts = this.#promptLogprobs(run);
    const outcomes = run.plan.entries.map((_, index): StepOutcome => {
      const prompt_logprobs = prompts[index] ?? null;
      const isSound = prompt_logprobs?.every(({ logprob }) => Number.isFinite(logprob)) ?? true;
      return { token: -1, logprobs: null, prompt_logprobs, error: isSound ? null : NOT_FINITE };
    });
    for (let from = 0; from < wanted.length; from += LOGIT_ROWS_MAX) {
      const batch = wanted.slice(from, from + LOGIT_ROWS_MAX);
      this.forward.head((row) => batch[row]?.row ?? 0, batch.length);
      batch.forEach(({ index }, row) => {
        const entry = run.plan.entries[index] as StepEntry;
        const { sampling } = this.#sampler.sequenceOf(entry.slot);
        const { token, error } = this.#sampler.sample(entry.slot, row, entry.start + entry.tokens.length, entry.generated);
        // Where none could be sampled, a step that goes on with it computes for nobody, but it computes something.
        this.#sampled[entry.slot] = Math.max(0, token);
        const logprobs = error === null && sampling.logprobs >= 0 ? this.#sampler.logprobs(row, token, sampling.logprobs) : null;
        outcomes[index] = { token, logprobs, prompt_logprobs: prompts[index] ?? null, error: outcomes[index]?.error ?? error };
      });
    }
    return outcomes;
  }

  /** Log-probabilities of the prompt tokens that follow each of the step's rows, where a sequence asked for them. */
  #promptLogprobs(run: Run): (readonly PositionLogprobs[] | null)[] {
    return run.plan.entries.map((entry, index) => {
      const { prompt, sampling } = this.#sampler.sequenceOf(entry.slot);
      if (sampling.prompt_logprobs < 0 || entry.start >= prompt.length - 1) return null;
      const rows = Math.min(entry.tokens.length, prompt.length - 1 - entry.start);
      const first = (run.spans[index] as Span).row;
      const logprobs: PositionLogprobs[] = [];
      for (let from = 0; from < rows; from += LOGIT_ROWS_MAX) {
        const count = Math.min(LOGIT_ROWS_MAX, rows - from);
        this.forward.head((row) => first + from + row, count);
        for (let row = 0; row < count; row++)
          logprobs.push(this.#sampler.logprobs(row, prompt[entry.start + from + row + 1] as number, sampling.prompt_logprobs));
      }
      return logprobs;
    });
  }
}
