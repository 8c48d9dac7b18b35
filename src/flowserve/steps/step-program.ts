/**
 * A step as a record that can be resumed: `start`, then `poll` until it is done. It never waits inside, since many NPUs share a worker:
 * where other NPUs are still computing, `poll` says pending and returns.
 *
 *   part ─▶ part ─▶ … (step-parts.ts; after one that asks others: pending until all peers' are here) ─▶ read (readout.ts)
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { BlockPool } from '../../fabric/block-pool.ts';
import { type Address, address } from '../../protocol/address.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { StepEntry, StepPlan } from '../../protocol/steps.ts';
import { AllGather } from '../../xccl/all-gather.ts';
import type { Exchange } from '../../xccl/exchange.ts';
import { MultiTokenPrediction } from '../drafters/mtp.ts';
import { newDrafter } from '../drafters/speculative.ts';
import { ExpertBatches } from '../experts/expert-batches.ts';
import { DISPATCHES_PER_TURN, ExpertService } from '../experts/expert-service.ts';
import { maskOf } from '../experts/masked-experts.ts';
import type { Arithmetic, Span, StepGraphs, TokenSampler } from '../forward/arithmetic.ts';
import type { Forward } from '../forward/forward.ts';
import { OutputProjection } from '../forward/output-projection.ts';
import { type KvSums, ownKvSums } from '../kv/kv-sums.ts';
import { firstBatchRows, kvPool } from '../layouts/step-layout.ts';
import { AskedPeers, PEERS_DEADLINE_MS } from './asked-peers.ts';
import { newDataflowBatches, TWO_BATCHES_ROWS_MIN } from './dataflow-lanes.ts';
import type { BatchParts } from './micro-batch.ts';
import type { MicroBatches } from './micro-batches.ts';
import { ReadRows } from './read-rows.ts';
import { Readout } from './readout.ts';
import { SlotBlocks } from './slot-blocks.ts';
import { SlotTokens } from './slot-tokens.ts';
import { digestOf } from './step-digest.ts';
import { StepInputs } from './step-inputs.ts';
import { type Experts, layerParts, type Part, type Projection, partsInTurn } from './step-parts.ts';
import { isDecode, type OnLayers, type Poll, partOf, type Run, type StepOptions } from './step-run.ts';
import { newMicroBatches } from './turns.ts';
import { UndoneSteps } from './undone-steps.ts';
import type { WarmShape } from './warm-up.ts';

const PENDING: Poll = { state: 'pending' };
const ASKED: Poll = { state: 'asked' };

export class StepProgram<Model extends Arithmetic = Forward> {
  readonly npu: number;
  readonly self: Address;
  readonly forward: Model;
  /** Null: KV is taken for what was written. */
  readonly kvSums: KvSums | null;
  readonly batches: ExpertBatches;
  /** What this NPU computes for others. */
  readonly service: ExpertService;
  readonly #projection: OutputProjection;
  readonly exchange: Exchange;
  /** With the other ranks of the DP group. */
  readonly gather: AllGather;
  readonly #held: SlotBlocks;
  readonly #sampler: TokenSampler;
  readonly #asked: AskedPeers;
  readonly #words: Int32Array;
  readonly #inputs: StepInputs;
  readonly #inTurn: readonly Part[];
  readonly #readRows: ReadRows;
  readonly #graphs: StepGraphs | null;
  readonly #onLayers: OnLayers;
  readonly #onDrafts: () => void;
  #run: Run | null = null;
  /** Null where its domain takes no turns with others. */
  readonly turns: MicroBatches | null;
  /** Null where steps that flow are one batch each; and whom the second has asked. */
  readonly #flow: MicroBatches | null = null;
  readonly #askedSecond: AskedPeers | null = null;
  /** Of the step at hand; null: it is one batch. */
  #microBatches: MicroBatches | null = null;
  /** The experts that its micro-batches have asked have yet to answer. */
  #isAwaiting = false;
  /** Begins when `#run` is done. */
  #next: StepPlan | null = null;
  readonly undone: UndoneSteps;
  readonly #slotTokens: SlotTokens;
  readonly #readout: Readout;

  constructor(
    forward: Model,
    space: AddressSpace,
    exchange: Exchange,
    dieOf: (npu: number) => number,
    { map, speculative, onLayers = () => {}, onDrafts = () => {}, kv_checksum, lost = new Set() }: StepOptions = {},
  ) {
    this.#onLayers = onLayers;
    this.#onDrafts = onDrafts;
    const { npu, kv, share } = forward.layout;
    this.npu = npu;
    this.self = address('npu', npu);
    this.forward = forward;
    this.undone = new UndoneSteps(npu, () => exchange.endpoint.surroundings.arrive(exchange.endpoint.die));
    this.batches = new ExpertBatches(forward, space, map, lost);
    this.#projection = new OutputProjection(forward, space);
    this.turns = newMicroBatches(forward, (model) => this.#batchParts(model, this.batches, space), space, exchange, dieOf, this.batches.routing, lost);
    this.service = new ExpertService(forward, space, exchange, this.#projection, this.turns);
    this.#inTurn = partsInTurn(forward, this.batches, this.service);
    this.#readRows = new ReadRows(forward, this.batches, this.service, space);
    this.#graphs = forward.newGraphs(this.batches, this.service, space);
    this.service.graphs = this.#graphs;
    this.exchange = exchange;
    // Ranks of a group have consecutive numbers.
    this.gather = new AllGather(exchange.endpoint, share.rank, share.tp, (rank) => dieOf(npu - share.rank + rank));
    this.#held = new SlotBlocks(new BlockPool(space, kvPool(npu, kv)));
    this.kvSums = ownKvSums(npu, space, kv, kv_checksum);
    this.#sampler = forward.newSampler(space);
    const { batches, service } = this;
    const roomOf = (slot: number): number => this.#held.of(slot).length * kv.block_size;
    const seat = { model: forward, batches, service, graphs: this.#graphs, sampler: this.#sampler, space, roomOf };
    this.#slotTokens = new SlotTokens(newDrafter(speculative, (tokens) => new MultiTokenPrediction(seat, tokens)));
    this.#readout = new Readout(forward, this.#sampler, this.#slotTokens);
    this.#inputs = new StepInputs(forward, space, this.#held, this.#sampler, this.#slotTokens);
    this.#asked = new AskedPeers(this.batches, this.service, this.#projection, dieOf);
    if (this.turns === null && forward.layout.second !== null) {
      const second = forward.second();
      const rows = firstBatchRows({ max_batch_tokens: forward.layout.rows_max });
      const batches = new ExpertBatches(second, space, map, lost, { batches: this.batches, rows });
      this.#askedSecond = new AskedPeers(batches, this.service, this.#projection, dieOf, 1);
      const both = [
        { model: forward, parts: () => this.#batchParts(forward, this.batches, space), asked: this.#asked },
        { model: second, parts: () => this.#batchParts(second, batches, space), asked: this.#askedSecond },
      ];
      this.#flow = newDataflowBatches(both, space);
    }
    this.#words = space.wordsOf(forward.layout.base);
  }

  /** The step at hand, or 0. */
  get step(): number {
    return this.#run?.plan.step ?? 0;
  }

  get isRunning(): boolean {
    return this.#run !== null;
  }

  /** Some of the step at hand is computed. */
  get hasBegun(): boolean {
    return this.#run !== null && (this.#run.part > 0 || this.#microBatches?.hasBegun === true);
  }

  /** The step that was launched and has not begun, or 0. */
  get next(): number {
    return this.#next?.step ?? 0;
  }

  /** Nothing to do before a peer answers. */
  get isWaiting(): boolean {
    if (this.#run === null || this.#asked.mustAskAgain || this.#askedSecond?.mustAskAgain === true || this.#microBatches?.mustBeginAgain === true) return false;
    return this.#asked.isMissing || this.gather.isWaiting || this.#isAwaiting;
  }

  /** Who asks it now is ahead (asked-peers.ts). */
  get goesOnFirst(): boolean {
    return this.#microBatches === null && this.#asked.goesOnFirst;
  }

  /** Parts of its steps that others refused, since they hold other experts now than its map says. */
  get refusals(): number {
    return this.#asked.refusals + (this.#askedSecond?.refusals ?? 0) + (this.turns?.refusals ?? 0);
  }

  /** KV blocks as the memory knows them. */
  get blocks(): BlockPool {
    return this.#held.pool;
  }

  /** A plan with the tokens that it goes on from and those that are drafted by now, before it is started: what it will compute. */
  resolve(plan: StepPlan): StepPlan {
    return this.#slotTokens.resolve(plan);
  }

  /** Of a micro-batch; the first one's are those of whole steps. */
  #batchParts(model: Arithmetic, batches: ExpertBatches, space: AddressSpace): BatchParts {
    const ofLayer = (layer: number): readonly Part[] => layerParts(model, layer, batches, this.service);
    if (model === this.forward) return { inTurn: this.#inTurn, graphs: this.#graphs, ofLayer };
    return { inTurn: partsInTurn(model, batches, this.service), graphs: model.newGraphs(batches, this.service, space), ofLayer };
  }

  start(planned: StepPlan): void {
    if (this.#run !== null) invariantBroken(`NPU ${this.npu} is busy with step ${this.#run.plan.step}`);
    const plan = this.resolve(planned);
    this.release(plan.detach);
    const spans: Span[] = [];
    let row = 0;
    for (const entry of plan.entries) {
      const span = this.#inputs.write(entry, spans.length, row);
      spans.push(span);
      row += span.rows;
    }
    this.kvSums?.begin(plan.entries, this.#held.tables);
    // Decode runs in graph mode, prefill and what is mixed with it part by part; and what expert-times.ts wants to see.
    const isCaptured = isDecode(plan) && !this.service.times.samples(plan.step) && plan.masked === undefined;
    for (const model of (this.turns ?? this.#flow)?.models ?? [this.forward])
      model.masked = plan.masked === undefined ? null : maskOf(model, this.batches.routing.map, plan.masked, this.#words);
    this.#asked.begin();
    this.#askedSecond?.begin();
    this.#microBatches = this.turns ?? (row >= TWO_BATCHES_ROWS_MIN ? this.#flow : null);
    const isWhole = this.#microBatches === null;
    const captured = isWhole && isCaptured ? (this.#graphs?.partsOf(row, spans.length) ?? null) : null;
    this.#microBatches?.start(row, spans, isCaptured);
    const read = isWhole && captured === null ? this.#readRows.of(spans, (index) => this.#firstRead(plan.entries[index] as StepEntry)) : null;
    const left = read ?? spans;
    const parts = isWhole ? (captured ?? (read === null ? this.#inTurn : this.#readRows.parts)) : [];
    const readout = this.#readout.begin(plan, left, captured !== null);
    const tail = this.#slotTokens.drafter?.tail({ plan, spans: left, rows: row, outcomes: readout.outcomes, isCaptured, begin: this.#beginDrafts }) ?? [];
    this.#run = { plan, spans, left, rows: row, parts, readout, tail, part: 0, isInBatches: !isWhole, digest: null };
  }

  /**
   * Computes a step of one sequence by itself: `tokens` that follow `from` others, whichever they are. What its peers would compute is missing, so its rows mean
   * nothing; neither is anything counted, nor any block held. Only before the first step.
   */
  rehearse(shape: WarmShape): void {
    const { layout, config } = this.forward;
    const spans = [this.#inputs.make(shape)];
    const { tokens } = shape;
    const hasUnread = this.#readRows.of(spans, () => tokens - 1) !== null;
    for (const part of hasUnread ? this.#readRows.parts : this.#inTurn) {
      if (part.kind === 'compute') part.compute(tokens, spans);
      else if (part.kind === 'projection') part.own(tokens);
      else if (part.kind === 'experts')
        part.own(
          tokens,
          part.route(tokens).find(({ npu }) => npu === this.npu),
        );
    }
    for (const counts of layout.counts) if (counts !== null) this.#words.fill(0, offsetOf(counts) >>> 2, (offsetOf(counts) >>> 2) + config.moe.experts);
  }

  /** Of an entry's rows the first one that anybody reads when the layers are computed. */
  #firstRead(entry: StepEntry): number {
    const isWhole = this.forward.layout.routing !== null || this.#slotTokens.drafter?.goesThrough(entry) === true;
    return isWhole ? 0 : this.#readout.firstRead(entry);
  }

  /** One more step, which `startNext` begins once the one at hand is done: what that one samples, it may go on with. */
  queue(plan: StepPlan): void {
    if (this.#run === null || this.#next !== null)
      invariantBroken(`NPU ${this.npu} was given step ${plan.step}, and has ${this.#next?.step ?? 'none'} to come`);
    this.#next = plan;
  }

  startNext(): void {
    const plan = this.#next;
    if (plan === null) invariantBroken(`NPU ${this.npu} has no step to come`);
    this.#next = null;
    this.start(plan);
  }

  /** Goes on until peers are missing or the step is done. */
  poll(): Poll {
    const run = this.#run;
    if (run === null) invariantBroken(`NPU ${this.npu} runs no step`);
    this.#checkUndone(run);
    for (;;) {
      const batches = this.#pollBatches(run);
      if (batches !== null) return batches;
      if (this.#asked.isMissing && !this.#asked.pull()) return PENDING;
      this.#asked.check();
      if (this.gather.isWaiting && !this.#gathers()) return PENDING;
      if (run.part === run.parts.length) this.kvSums?.end(run.plan.entries, this.#held.tables);
      const part = partOf(run, run.part++);
      if (part === undefined) break;
      if (part.kind === 'compute') {
        part.compute(run.rows, run.spans);
        if (part.kv_layers > 0) this.#onLayers(run.plan.step, part.kv_layers);
      } else if (part.kind === 'experts') {
        this.#dispatch(run, part);
        if (this.#asked.isMissing) return ASKED;
      } else if (part.kind === 'projection') {
        this.#projectWithPeers(run, part);
        return ASKED;
      } else if (part.kind === 'turn') {
        this.#microBatches?.goOnWith(part.layer, part.rows(), part.spans());
        run.isInBatches = true;
      } else {
        const table = this.forward.tables.of(part.table, part.first, part.rows(run.rows));
        this.gather.start(run.plan.step, part.what, table, PEERS_DEADLINE_MS);
        return ASKED;
      }
    }
    this.#run = null;
    this.#asked.end();
    this.#askedSecond?.end();
    return { state: 'done', plan: run.plan, outcomes: run.readout.outcomes, digest: run.digest ?? digestOf(this.forward, this.#words, run.left) };
  }

  #checkUndone({ plan: { step } }: Run): void {
    if (!this.undone.mayWait(step)) this.undone.check(step, this.missing, this.batches.lost);
  }

  /** Null: nothing runs in micro-batches any more. */
  #pollBatches(run: Run): Poll | null {
    if (!run.isInBatches || this.#microBatches === null) return null;
    const state = this.#microBatches.poll((layers) => this.#onLayers(run.plan.step, layers));
    this.#isAwaiting = state === 'pending';
    run.isInBatches = state !== 'done';
    // Also where it has waited from the first: nobody may look again.
    if (this.#isAwaiting) this.#checkUndone(run);
    return state === 'done' ? null : state === 'asked' ? ASKED : PENDING;
  }

  /** True: the table is whole. */
  #gathers(): boolean {
    const poll = this.gather.poll();
    if (poll.state === 'failed') throw poll.error;
    return poll.state === 'done';
  }

  /** Drafters compute in the rows' places. */
  readonly #beginDrafts = (): void => {
    const run = this.#run as Run;
    this.#onDrafts();
    run.digest = digestOf(this.forward, this.#words, run.left);
  };

  /** To the experts: other NPUs' first, so that they compute while this one does its own share; and before that, who is ahead and has asked gets his answer. */
  #dispatch(run: Run, part: Experts): void {
    const own = this.#asked.askShares(part.layer, part.route(run.rows), part.range(run.rows));
    this.service.serve(DISPATCHES_PER_TURN);
    part.own(run.rows, own);
  }

  /** Peers compute their columns while this NPU computes its own. */
  #projectWithPeers(run: Run, part: Projection): void {
    this.#asked.askColumns(part.layer, part.rows(run.rows));
    part.own(run.rows);
  }

  /** NPUs whose answers or parts are missing. */
  get missing(): number[] {
    return [...new Set([...this.#asked.npus, ...(this.#askedSecond?.npus ?? []), ...this.#gathering])];
  }

  get #gathering(): number[] {
    const first = this.npu - this.gather.rank;
    const ofBatches = this.#isAwaiting ? (this.#microBatches?.missing ?? []) : [];
    return [...this.gather.missing.map((rank) => first + rank), ...ofBatches];
  }

  /** @throws `deadline_exceeded` naming the NPUs that have not answered for too long. */
  checkDeadline(): void {
    this.#asked.checkDeadline(this.#gathering);
    this.#askedSecond?.checkDeadline([]);
  }

  /** Asks a peer once more for what it has not answered: it was restarted. Who serves keeps no state, so asking twice is harmless. */
  askAgain(npu: number): void {
    this.#asked.askAgain(npu);
    this.#askedSecond?.askAgain(npu);
  }

  /** Gives the step up and forgets all slots. Nobody is waited for: what peers still compute for it lies in their memory, and is not looked for. */
  reset(): void {
    this.#asked.reset();
    this.#askedSecond?.reset();
    this.#run = null;
    this.#next = null;
    this.undone.forget();
    this.#isAwaiting = false;
    this.#microBatches?.reset();
    this.gather.reset();
    this.#held.freeAll();
    this.#sampler.reset();
    this.#slotTokens.drafter?.reset();
  }

  /** Frees what is held for slots whose sequences are gone. */
  release(slots: readonly number[]): void {
    for (const slot of slots) {
      this.#held.free(slot);
      this.#sampler.detach(slot);
      this.#slotTokens.drafter?.detach(slot);
    }
  }
}
