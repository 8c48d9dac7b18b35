/**
 * A step as a record that can be resumed: `start`, then `poll` until it is done. It never waits inside, since many NPUs share a worker:
 * where experts of other NPUs are still computing, `poll` says pending and returns.
 *
 *   embed ─▶ [attention ─▶ dense | gate ─▶ dispatch ─▶ own experts, shared expert ─▶ (pending) ─▶ combine] × layers ─▶ head ─▶ sample
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { isMoeLayer } from '../model/config.ts';
import { type Address, address } from '../protocol/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import type { PositionLogprobs, StepEntry, StepOutcome, StepPlan } from '../protocol/messages.ts';
import type { Combine, Dispatch, Exchange } from '../xccl/exchange.ts';
import { ExpertBatches } from './expert-batches.ts';
import type { Forward, Span } from './forward.ts';
import { LOGIT_ROWS_MAX } from './npu-layout.ts';
import { NOT_FINITE, Sampler } from './sampler.ts';

export type Poll = { readonly state: 'pending'; readonly missing: readonly number[] } | { readonly state: 'done'; readonly outcomes: readonly StepOutcome[] };

type Run = {
  readonly plan: StepPlan;
  readonly spans: readonly Span[];
  readonly rows: number;
  layer: number;
  readonly missing: Map<number, Dispatch>;
  failedPeer: number | null;
};

export class StepProgram {
  readonly forward: Forward;
  readonly batches: ExpertBatches;
  readonly #sampler: Sampler;
  readonly #exchange: Exchange;
  readonly #words: Int32Array;
  readonly #self: Address;
  #run: Run | null = null;

  constructor(forward: Forward, space: AddressSpace, exchange: Exchange, npus: number) {
    this.forward = forward;
    this.batches = new ExpertBatches(forward, space, npus);
    this.#sampler = new Sampler(forward, space);
    this.#exchange = exchange;
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

  /** Nothing to do before the missing peers answer. */
  get isWaiting(): boolean {
    return this.#run !== null && this.#run.missing.size > 0;
  }

  start(plan: StepPlan): void {
    assert(this.#run === null, `NPU ${this.npu} is busy with step ${this.#run?.plan.step}`);
    for (const slot of plan.detach) this.#sampler.detach(slot);
    const spans: Span[] = [];
    let row = 0;
    for (const entry of plan.entries) {
      this.#writeInputs(entry, row);
      spans.push({ slot: entry.slot, row, rows: entry.tokens.length });
      row += entry.tokens.length;
    }
    this.#run = { plan, spans, rows: row, layer: 0, missing: new Map(), failedPeer: null };
    this.forward.embed(row);
  }

  /** Goes on as far as it can. */
  poll(): Poll {
    const run = this.#run;
    assert(run, `NPU ${this.npu} runs no step`);
    const { forward } = this;
    while (run.layer < forward.config.layers) {
      if (run.missing.size > 0) return { state: 'pending', missing: [...run.missing.keys()] };
      if (run.failedPeer !== null) throw new MinipodError('worker_failed', `the experts of NPU ${run.failedPeer} failed at layer ${run.layer}`);
      if (forward.config.moe.experts > 0 && isMoeLayer(forward.config, run.layer)) {
        if (!this.#isDispatched) this.#dispatch(run);
        if (run.missing.size > 0) continue;
        forward.combine(run.layer, run.rows);
        this.#isDispatched = false;
      } else {
        forward.attention(run.layer, run.rows, run.spans);
        forward.postNorm(run.layer, run.rows);
        forward.dense(run.layer, run.rows);
      }
      run.layer++;
    }
    const outcomes = this.#sample(run);
    this.#run = null;
    return { state: 'done', outcomes };
  }

  #isDispatched = false;

  /** Attention and gate, then to the experts: other NPUs' first, so that they compute while this one does its own share. */
  #dispatch(run: Run): void {
    const { forward } = this;
    forward.attention(run.layer, run.rows, run.spans);
    forward.postNorm(run.layer, run.rows);
    forward.gate(run.layer, run.rows);
    const shares = this.batches.sort(run.rows);
    for (const share of shares) {
      if (share.npu === this.npu) continue;
      const dispatch = this.batches.describe(share, run.plan.step, run.layer);
      run.missing.set(share.npu, dispatch);
      this.#exchange.dispatch(dispatch);
    }
    if (run.missing.size > 0) this.#exchange.publish();
    const own = shares.find(({ npu }) => npu === this.npu);
    if (own !== undefined) this.batches.compute(this.batches.describe(own, run.plan.step, run.layer));
    forward.sharedExpert(run.layer, run.rows);
    this.#isDispatched = true;
  }

  /** An expert NPU has answered. Answers to a step that was given up only tell that its memory is free again. */
  receive({ source, step, layer, failed }: Combine): void {
    const run = this.#run;
    if (run?.plan.step === step && run.layer === layer) {
      run.missing.delete(source);
      if (failed) run.failedPeer = source;
    }
    this.#owed.delete(source);
  }

  /** A peer is gone and answers nothing any more. */
  forget(npu: number): void {
    this.#owed.delete(npu);
  }

  /** Asks a peer once more for what it has not answered: it was restarted. Experts keep no state, so asking twice is harmless. */
  dispatchAgain(npu: number): void {
    // A new thread owes nothing.
    this.#owed.delete(npu);
    const dispatch = this.#run?.missing.get(npu);
    if (dispatch !== undefined) this.#exchange.dispatch(dispatch);
  }

  /** Expert NPUs that still read and write this one's memory for a step that was given up. */
  readonly #owed = new Set<number>();

  /** No peer works for a step that was given up: the next one may use the same memory. */
  get isReset(): boolean {
    return this.#run === null && this.#owed.size === 0;
  }

  /** Gives the step up and forgets all slots. */
  reset(): void {
    for (const npu of this.#run?.missing.keys() ?? []) this.#owed.add(npu);
    this.#run = null;
    this.#isDispatched = false;
    this.#sampler.reset();
  }

  #writeInputs(entry: StepEntry, row: number): void {
    const { at, layout } = this.forward;
    if (entry.attach !== null) this.#sampler.attach(entry.slot, entry.attach, entry.output);
    const { address, blocks_max } = layout.blockTables;
    let table = (offsetOf(address) >>> 2) + entry.slot * blocks_max + entry.first_block;
    for (const block of entry.blocks) this.#words[table++] = offsetOf(layout.kv.address) + block * layout.kv.block_bytes;
    entry.tokens.forEach((token, index) => {
      this.#words[(at.tokenIds >>> 2) + row + index] = token;
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
